"""A real server that speaks S3, for tests of whatever keeps objects there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from evtool.errors import StoreError
from evtool.files import Files
from evtool.objectstore.opening import open_store

IDENTITIES = """{"identities": [{"name": "tests", "credentials": [{"accessKey": "known-key", "secretKey":
"known-secret"}], "actions": ["Admin", "Read", "Write", "List"]}]}"""


class Server:
    """`weed server` with S3, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "data").mkdir(parents=True)
        (folder / "identities.json").write_text(IDENTITIES)
        self._ports = _free_ports(4)
        self.port = self._ports[0]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        s3, master, volume, filer = self._ports
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert weed is not None, "pip install -e '.[test]'"
        ports = (f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}")
        others = ("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false")
        place = (f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=20")
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, "server", "-s3", *place, *ports, *others, f"-s3.config={self._folder / 'identities.json'}"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    @property
    def environment(self) -> dict[str, str]:
        """What finds it and has its key."""
        return {
            "AWS_ACCESS_KEY_ID": "known-key",
            "AWS_SECRET_ACCESS_KEY": "known-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def wait(self) -> None:
        """Return when it stores something."""
        store = open_store("s3://ready/x", Files(), patience_seconds=0)
        ends_at = time.monotonic() + 60
        while True:
            try:
                store.put("ready", b"1")
                return
            except StoreError:
                assert time.monotonic() < ends_at, (self._folder / "weed.log").read_text()[-2000:]
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and whose neighbours 10,000 above, which weed takes for itself, are too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            port = port if port < 55_000 else port - 20_000
            try:
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
