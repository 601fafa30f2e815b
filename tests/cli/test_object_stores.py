"""What every object store keeps to, in a folder and in a bucket of a real server; and what failures of one say."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from backing import backed_up, digest, restored
from bucket_proxy import Proxy
from bucket_server import Server
from command_line import as_json, environment, failed, run
from samples import config, make_log, many

from evtool.errors import ConfigError, StoreError, StoreRefusedError
from evtool.files import Files
from evtool.lifecycle.backups import checking
from evtool.objectstore import s3
from evtool.objectstore.opening import open_store
from evtool.objectstore.store import PART_BYTES, Store

SMALL = config(segment_bytes=6 * 1024, partitions=2)


@pytest.fixture(params=["folder", "file URL", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        request.getfixturevalue("server")
        return open_store(f"s3://backups/{tmp_path.name}", Files())
    url = str(tmp_path / "store") if request.param == "folder" else f"file://{tmp_path}/a%20store"
    return open_store(url, Files())


def test_objects_come_back_as_they_were_put(store: Store):
    large = os.urandom(PART_BYTES + 123)  # in several parts
    assert list(store.list("a/")) == []
    for name, data in (("a/1", b"one"), ("a/b/2", large), ("a/none", b""), ("other/3", b"three")):
        store.put(name, memoryview(data))
    assert sorted((each.name, each.bytes) for each in store.list("a/")) == [
        ("a/1", 3),
        ("a/b/2", len(large)),
        ("a/none", 0),
    ]
    assert all(abs(each.stored_at - time.time()) < 100 for each in store.list("a/"))
    assert (store.get("a/1"), store.get("a/none"), store.get("a/b/2")) == (b"one", b"", large)
    assert store.read("a/b/2", 100, 200) == large[100:200]
    assert store.read("a/1", 1, 99) == b"ne"
    assert b"".join(store.parts("a/b/2", len(large))) == large
    store.put("a/1", b"another")
    assert store.get("a/1") == b"another"
    found = store.head("a/1")
    assert found is not None
    assert (found.name, found.bytes) == ("a/1", 7)
    store.delete("a/1")
    store.delete("a/1")
    assert store.head("a/1") is None
    for read in (lambda: store.get("a/1"), lambda: store.read("a/1", 0, 5)):
        with pytest.raises(FileNotFoundError):
            read()


def test_a_log_goes_to_a_bucket_and_comes_back(server: Server, folder: Path, tmp_path: Path):
    make_log(folder, [many(100, number * 100) for number in range(6)], SMALL)
    store = open_store("s3://backups/log", Files())
    assert backed_up(folder, store).stored > 4
    make_log(folder, [many(10, 600)], SMALL)
    assert backed_up(folder, store).stored == 1
    assert checking.check(store).damaged == ()
    restored(store, tmp_path / "again")
    assert digest(tmp_path / "again") == digest(folder)
    found = as_json("restore", "--from", "s3://backups/log", "--to", "cut", "--until", "@334", cwd=tmp_path)
    assert (found["position"], found["clean"]) == (333, True)


def test_a_key_that_is_refused_is_told_at_once_and_not_shown(server: Server, folder: Path, tmp_path: Path):
    make_log(folder, [many(5)])
    for key, secret in (("unknown-key", "known-secret"), ("known-key", "unknown-secret")):
        env = environment(AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret)
        began = time.monotonic()
        told = failed(27, "backup", "--to", "s3://backups/refused", "--log", folder, cwd=tmp_path, env=env)
        assert time.monotonic() - began < 30  # not asked for a minute
        assert "refused" in told
        assert "AWS_ACCESS_KEY_ID" in told
        assert not [word for word in ("known-key", "known-secret", "unknown-secret") if word in told]


def test_a_bucket_that_is_not_there_is_told(server: Server):
    with pytest.raises(StoreRefusedError, match="NoSuchBucket") as caught:
        list(open_store("s3://never-made/x", Files()).list("a/"))
    assert "name of the bucket" in caught.value.hint


def test_a_store_that_dies_in_the_middle_and_comes_back(
    line: Proxy, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    make_log(folder, [many(100, number * 100) for number in range(6)], SMALL)
    dying = open_store("s3://backups/dies", Files(), patience_seconds=0.5)
    put = dying.put

    def put_once(name: str, data: bytes) -> None:
        put(name, data)
        line.cut()

    monkeypatch.setattr(dying, "put", put_once)
    with pytest.raises(StoreError, match="does not answer") as caught:
        backed_up(folder, dying)
    assert not isinstance(caught.value, StoreRefusedError)
    line.mend_later(1.0)  # a patient one waits for that
    back = open_store("s3://backups/dies", Files(), patience_seconds=60)
    assert checking.every(back) == []  # no manifest, no backup
    assert backed_up(folder, back).is_new
    assert checking.check(back).damaged == ()


def test_a_store_that_never_answers_is_not_waited_for_for_ever(folder: Path, tmp_path: Path):
    make_log(folder, [many(5)])
    (tmp_path / "evtool.toml").write_text('[backup]\nto = "s3://backups/x"\npatience_ms = 300\n')
    env = environment(
        AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ACCESS_KEY_ID="known-key", AWS_SECRET_ACCESS_KEY="known-secret"
    )
    told = failed(26, "backup", "--log", folder, cwd=tmp_path, env=env)
    assert "does not answer" in told
    assert "known-key" not in told


class Answers(BaseHTTPRequestHandler):
    """A store that answers as it is told: with a status, or (0) not at all in the time that it is given."""

    statuses: ClassVar[list[int]] = []
    asked: ClassVar[int] = 0

    def do_GET(self) -> None:
        status = self.statuses.pop(0) if self.statuses else 200
        Answers.asked += 1
        if status == 0:
            time.sleep(1.0)
            return
        body = b"content" if status == 200 else b"<Error><Code>SlowDown</Code></Error>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "known-secret")
    monkeypatch.setattr(s3, "_REQUEST_SECONDS", 0.3)
    Answers.asked, Answers.statuses = 0, []
    try:
        yield Answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("statuses", [[503, 500], [429], [0, 503]], ids=["errors", "busy", "too slow"])
def test_what_may_pass_by_is_tried_again(answers: type[Answers], statuses: list[int]):
    answers.statuses += statuses
    assert open_store("s3://bucket/x", Files(), patience_seconds=30).get("a") == b"content"
    assert answers.asked == len(statuses) + 1


@pytest.mark.parametrize(("status", "told"), [(503, "SlowDown"), (0, "does not answer")])
def test_what_does_not_pass_by_ends_when_patience_does(answers: type[Answers], status: int, told: str):
    answers.statuses += [status] * 50
    with pytest.raises(StoreError, match=told) as caught:
        open_store("s3://bucket/x", Files(), patience_seconds=0.6).get("a")
    assert not isinstance(caught.value, StoreRefusedError)
    assert 2 <= answers.asked <= 5


def test_a_refusal_is_not_tried_again(answers: type[Answers]):
    answers.statuses.append(403)
    with pytest.raises(StoreRefusedError):
        open_store("s3://bucket/x", Files(), patience_seconds=30).get("a")
    assert answers.asked == 1


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://x/y", "s3://", "s3:///x", "file://host/x", "s3://key:secret@bucket/x", "s3://b/x?key=secret"),
        *("s3://b/x#secret", "file:///x#secret", "file:/x", "file:x", "s3:/b/x"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_secrets(url: str):
    with pytest.raises(ConfigError) as caught:
        open_store(url, Files())
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize(
    "endpoint",
    ["localhost:9000", "", "http://", "ftp://x", "http://[::1", "http://a b", "http://x:99999", "http://:secret@"],
)
def test_an_endpoint_that_is_no_url_is_told_without_its_secrets(
    name: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, endpoint)
    with pytest.raises(ConfigError, match=f"{name} is no URL") as caught:
        list(open_store("s3://bucket/x", Files(), patience_seconds=0).list("a/"))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"])
def test_a_key_with_a_line_break_is_told_and_not_shown(name: str, monkeypatch: pytest.MonkeyPatch):
    for each in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(each, "known")
    monkeypatch.setenv(name, "secret\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=f"{name} holds a line break") as caught:
        list(open_store("s3://bucket/x", Files(), patience_seconds=0).list("a/"))
    assert "secret" not in caught.value.message


def test_without_a_key_it_is_said_that_there_is_none(folder: Path, tmp_path: Path):
    make_log(folder, [many(5)])
    env = environment(AWS_REGION="us-east-1", AWS_METADATA_ENDPOINT="http://127.0.0.1:9")
    env = {
        name: value for name, value in env.items() if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    told = failed(27, "backup", "--to", "s3://backups/x", "--log", folder, cwd=tmp_path, env=env)
    assert "no key was found" in told


def test_without_the_package_the_extra_is_named(tmp_path: Path, folder: Path):
    make_log(folder, [many(5)])
    (tmp_path / "obstore.py").write_text("raise ImportError('not there')")
    env = environment(PYTHONPATH=str(tmp_path))
    told = failed(3, "backup", "--to", "s3://backups/x", "--log", folder, cwd=tmp_path, env=env)
    assert "evtool[s3]" in told
    run("backup", "--to", "folder", "--log", folder, cwd=tmp_path, env=env)  # which needs no package
