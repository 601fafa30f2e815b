"""What all tests share: how Hypothesis runs, a folder for a log, and a server that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_proxy import Proxy
from bucket_server import Server
from hypothesis import HealthCheck, settings

from evtool.files import Files
from evtool.objectstore.opening import open_store

# A failure prints the blob that brings it back; how long an example takes is not what is tested.
settings.register_profile(
    "evtool",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("evtool")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a log can be made; there is nothing yet."""
    return tmp_path / "segments"


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, started once."""
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in running.environment.items():
                patch.setenv(name, value)
            running.wait()
            open_store("s3://backups", Files()).put("first", b"1")  # the bucket comes with it
        yield running
    finally:
        running.stop()


@pytest.fixture
def server(running_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, and its key in the environment."""
    for name, value in running_server.environment.items():
        monkeypatch.setenv(name, value)
    return running_server


@pytest.fixture
def line(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server, behind a line that can be cut."""
    proxy = Proxy(server.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    yield proxy
    proxy.cut()
