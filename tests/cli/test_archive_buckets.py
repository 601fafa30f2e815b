"""The archive in a bucket of a real server: one that refuses the key, dies and comes back, or is slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from archives import COUNT, archived, brought_back, check_sound, dropped, make, settings, stubs
from backing import replay
from bucket_proxy import Proxy
from bucket_server import Server
from command_line import as_json, environment, failed

import evtool
from evtool.errors import StoreError, StoreRefusedError
from evtool.files import Files
from evtool.lifecycle.archiving import checking, place
from evtool.objectstore import opening, s3


@pytest.fixture
def bucket(server: Server, tmp_path: Path) -> str:
    """A place of its own in a bucket."""
    return f"s3://backups/{tmp_path.name}"


def check_clean(folder: Path) -> checking.Report:
    with evtool.open(folder, read_only=True, config=settings(folder)) as log:
        report = checking.check(place.existing(log), is_quick=False)
    assert (report.damaged, report.unnamed) == ((), 0)
    return report


def test_a_log_goes_to_a_bucket_is_read_there_dropped_there_and_comes_back(folder: Path, bucket: str):
    wanted = replay(make(folder, cold=3))
    assert archived(folder, to=f"{bucket}/").position == 3 * COUNT
    assert archived(folder, to=bucket).segments == 0
    check_sound(folder, wanted)
    assert check_clean(folder).objects == 9
    with evtool.open(folder, read_only=True) as log:
        size = sum(each.log_bytes for each in log.snapshot().segments)
    dropped(folder, size=size - 1)
    wanted = b"".join(wanted.splitlines(keepends=True)[COUNT:])
    check_sound(folder, wanted)
    assert check_clean(folder).objects == 10  # with what is known of those that are gone
    brought_back(folder)
    check_sound(folder, wanted)
    assert stubs(folder) == []
    store = opening.open_store(bucket, Files())
    assert not [*store.list("events/"), *store.list("index/")]
    assert store.head("catalogue.msgpack") is None


def test_a_server_that_dies_in_the_middle_and_comes_back(
    folder: Path, bucket: str, line: Proxy, monkeypatch: pytest.MonkeyPatch
):
    wanted, opened, puts = replay(make(folder, cold=3)), opening.open_store, 0

    def open_dying(*given: Any, **named: Any) -> Any:
        store = opened(*given, **named)
        put = store.put

        def put_and_die(name: str, data: Any) -> None:
            nonlocal puts
            put(name, data)
            puts += 1
            if puts == 7:  # of the second segment
                line.cut()

        store.put = put_and_die  # type: ignore[method-assign]
        return store

    with monkeypatch.context() as patch:
        for module in (opening, place):
            patch.setattr(module, "open_store", open_dying)
        with pytest.raises(StoreError, match="does not answer") as caught:
            archived(folder, to=bucket, patience_ms=300)
    assert not isinstance(caught.value, StoreRefusedError)
    assert len(stubs(folder)) == 1
    line.mend_later(1.0)  # a patient one waits for that
    check_sound(folder, wanted)
    assert archived(folder, to=bucket).segments == 2
    check_sound(folder, wanted)
    check_clean(folder)


def test_a_key_that_is_refused_is_told_at_once_and_nothing_is_moved(folder: Path, bucket: str, tmp_path: Path):
    wanted = replay(make(folder))
    env = environment(AWS_SECRET_ACCESS_KEY="unknown-secret")
    began = time.monotonic()
    told = failed(27, "archive", "--to", bucket, "--log", folder, "--json", cwd=tmp_path, env=env)
    assert time.monotonic() - began < 30  # not asked for a minute
    assert "AWS_ACCESS_KEY_ID" in told
    assert "known-key" not in told
    assert not (folder / "archive.json").exists()
    check_sound(folder, wanted)
    assert as_json("archive", "--to", bucket, "--log", folder, cwd=tmp_path)["moved"]["segments"] == 4
    again = failed(27, "archive", "--check", "--log", folder, "--json", cwd=tmp_path, env=env)
    assert "refused" in again
    assert "cannot read" in failed(27, "replay", "--log", folder, cwd=tmp_path, env=env)


class Slow(BaseHTTPRequestHandler):
    """It answers nothing in the time that it is given."""

    asked: ClassVar[int] = 0

    def handle_one_request(self) -> None:
        Slow.asked += 1
        time.sleep(0.5)
        self.close_connection = True


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
        *(("AWS_ACCESS_KEY_ID", "known-key"), ("AWS_SECRET_ACCESS_KEY", "known-secret")),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "_REQUEST_SECONDS", 0.2)
    yield lambda: Slow.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_store_that_is_too_slow_is_asked_again_and_then_told(folder: Path, slow: Callable[[], int]):
    wanted = replay(make(folder, cold=1))
    with pytest.raises(StoreError, match="does not answer"):
        archived(folder, to="s3://bucket/x", patience_ms=600)
    assert slow() >= 2
    assert not (folder / "archive.json").exists()
    check_sound(folder, wanted)
