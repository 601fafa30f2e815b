"""Lines as real producers write them: GitHub Archive, CloudTrail and Snowplow's enriched events."""

from __future__ import annotations

import json
from typing import Any


def _github(number: int, kind: str, repository: str, payload: dict[str, Any], **more: Any) -> str:
    event = {
        "id": str(45_123_456_000 + number),
        "type": kind,
        "actor": {
            "id": 100 + number,
            "login": f"octo-{number}",
            "display_login": f"octo-{number}",
            "gravatar_id": "",
            "url": f"https://api.github.com/users/octo-{number}",
            "avatar_url": f"https://avatars.githubusercontent.com/u/{100 + number}?",
        },
        "repo": {
            "id": 7_000 + number % 3,
            "name": repository,
            "url": f"https://api.github.com/repos/{repository}",
        },
        "payload": payload,
        "public": True,
        "created_at": f"2026-01-01T00:00:{number:02d}Z",
    }
    return json.dumps(event | more, separators=(",", ":"), ensure_ascii=False) + "\n"


_COMMIT = {"sha": "9b1c" * 10, "author": {"name": "Øctø 🐙"}, "message": 'Say "hello"\n\nand mean it'}
GITHUB = [
    _github(1, "PushEvent", "octo/one", {"push_id": 16_123_456_789, "size": 1, "commits": [_COMMIT]}),
    _github(2, "WatchEvent", "octo/two", {"action": "started"}),
    _github(3, "CreateEvent", "octo/one", {"ref": None, "ref_type": "repository", "description": None}),
    _github(
        4,
        "IssuesEvent",
        "big/org-repo",
        {"action": "opened", "issue": {"id": 2_700_000_000, "number": 1, "labels": [], "user": {"login": "x"}}},
        org={"id": 9919, "login": "big", "gravatar_id": "", "url": "https://api.github.com/orgs/big"},
    ),
]

_TRAIL: dict[str, Any] = {
    "eventVersion": "1.08",
    "userIdentity": {
        "type": "AssumedRole",
        "principalId": "AROAEXAMPLE:session",
        "arn": "arn:aws:sts::123456789012:assumed-role/reader/session",
        "accountId": "123456789012",
    },
    "eventTime": "2026-01-31T12:00:00Z",
    "eventSource": "s3.amazonaws.com",
    "eventName": "GetObject",
    "awsRegion": "eu-central-1",
    "sourceIPAddress": "198.51.100.7",
    "requestParameters": {"bucketName": "b", "key": "a/b.parquet"},
    "responseElements": None,
    "eventID": "3038ebd2-c98a-4c65-9b6e-e22506292313",
    "readOnly": True,
    "eventType": "AwsApiCall",
    "recipientAccountId": "123456789012",
}
CLOUDTRAIL = [
    _TRAIL,
    _TRAIL
    | {
        "userIdentity": {"type": "AWSService", "invokedBy": "cloudtrail.amazonaws.com"},
        "eventSource": "kms.amazonaws.com",
        "eventName": "GenerateDataKey",
        "eventID": "8c0a5d3e-2a6f-4f6e-9d9c-0a1b2c3d4e5f",
    },
]

_PAGE_VIEW: dict[str, Any] = {
    "app_id": "shop-web",
    "platform": "web",
    "etl_tstamp": "2026-01-31T12:00:01.500Z",
    "collector_tstamp": "2026-01-31 12:00:00.123",
    "event": "page_view",
    "event_id": "c6ef3124-b53a-4b13-a233-0088f79dcbcb",
    "v_tracker": "js-4.0.0",
    "user_id": None,
    "domain_userid": "bc2e92ec6c204a14",
    "domain_sessionidx": 3,
    "page_url": "https://shop.example/sale?é=1",
    "geo_latitude": 52.520000,
    "contexts_com_snowplowanalytics_snowplow_web_page_1": [{"id": "b7d1b4a3"}],
    "unstruct_event_com_example_add_to_basket_1": None,
    "event_name": "page_view",
    "schema_version": "1-0-0",
}
SNOWPLOW = [
    _PAGE_VIEW,
    _PAGE_VIEW | {"event_id": "d7ef3124-b53a-4b13-a233-0088f79dcbcb", "user_id": 42, "event_name": "basket"},
]
