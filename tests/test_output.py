"""Where a command writes: whole files or none, compressed as their names say."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zstandard

from evtool import output
from evtool.errors import ConfigError, PositionError, StorageError

READERS = (
    ("plain.ndjson", bytes),
    ("a.zst", lambda data: zstandard.ZstdDecompressor().stream_reader(data).read()),
    ("a.gz", gzip.decompress),
    (".gz", bytes),
)


def write_half(target: str) -> None:
    with output.opened(target) as file:
        file.write(b"half" * 100_000)
        raise PositionError("gone")


@pytest.mark.parametrize(("name", "read"), READERS)
def test_a_file_is_compressed_as_its_name_says(tmp_path: Path, name: str, read):
    data = b"line\n" * 100_000
    with output.opened(str(tmp_path / name)) as target:
        for start in range(0, len(data), 77_777):
            target.write(data[start : start + 77_777])
    assert read((tmp_path / name).read_bytes()) == data
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["plain", "a.zst", "a.gz"])
def test_what_cannot_be_finished_leaves_nothing(tmp_path: Path, name: str):
    target = tmp_path / name
    for before in (None, b"before"):
        if before:
            target.write_bytes(before)
        with pytest.raises(PositionError):
            write_half(str(target))
        assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])


def test_a_pipe_that_is_there_is_written_to(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with output.opened(str(tmp_path / "pipe")) as file:
        file.write(b"lines")
    reader.join()
    assert read == [b"lines"]
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_file_of_another_s_is_left_alone(tmp_path: Path):
    (tmp_path / "a.tmp").write_bytes(b"someone else's")
    with output.opened(str(tmp_path / "a")) as file:
        file.write(b"mine")
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert (tmp_path / "a.tmp").read_bytes() == b"someone else's"


@pytest.mark.parametrize("out", ["/", ".", "..", "", "folder", "none/below", "file/below", "n" * 300])
def test_where_no_file_can_be_is_an_error_that_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.tmp").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises((ConfigError, StorageError)), output.opened(out):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "folder.tmp"]


def test_standard_output_by_its_name_may_be_a_pipe(tmp_path: Path):
    program = "import evtool.output as o\nwith o.opened('/dev/stdout') as file: file.write(b'whole')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (b"whole", b"")
