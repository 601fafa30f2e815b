"""`init`, `stats`, `verify` and `inspect`: what they say, to people and to programs."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from command_line import as_json, failed, line, lines, run, start

from evtool import shop


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 20,000 events in two batches, one of mixed partitions."""
    folder = tmp_path_factory.mktemp("inside")
    data = b"".join(shop.blocks(20_000, 9))
    run("ingest", "--max-latency", "1h", "--log", folder / "log", cwd=folder, stdin=data)
    run("ingest", "--log", folder / "log", cwd=folder, stdin=lines(*range(10)))
    return folder / "log"


def test_stats_count_what_is_there(log: Path):
    found = as_json("stats", "--log", log, cwd=log.parent)
    counted = ("events", "position", "batches", "segments", "sealed_segments")
    assert [found[name] for name in counted] == [20_010, 20_010, 2, 1, 0]
    assert sum(found["partitions"]) == 20_010
    assert len(found["partitions"]) == 8
    assert found["timestamp_min"] < found["timestamp_max"] <= found["recorded_at_max"]
    assert found["recorded_at_min"] < found["recorded_at_max"]
    assert found["stored_bytes"] < found["bytes_on_disk"]
    assert found["bytes_per_event"] == pytest.approx(found["stored_bytes"] / 20_010, abs=0.01)
    assert re.fullmatch("[0-9a-f]{32}", found["id"])
    told = run("stats", "--log", log, cwd=log.parent).stdout.decode()
    assert "20,010" in told
    assert found["id"] in told


def test_verify_gives_the_digest_and_finds_damage(log: Path, tmp_path: Path):
    report = as_json("verify", "--log", log, cwd=log.parent)
    assert (report["clean"], report["findings"], report["events"], report["batches"]) == (True, [], 20_010, 2)
    assert report["digest"] in run("verify", "--log", log, cwd=log.parent).stdout.decode()
    copy = tmp_path / "copy"
    for path in log.rglob("*"):
        target = copy / path.relative_to(log)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    frames = next(copy.glob("0*/frames.log"))
    data = bytearray(frames.read_bytes())
    data[len(data) // 2] ^= 1
    frames.write_bytes(data)
    done = run("verify", "--log", copy, "--json", cwd=tmp_path, code=14)
    found = json.loads(done.stdout)
    assert (found["clean"], found["digest"]) == (False, None)
    assert found["findings"][0]["file"] == str(frames)
    told = run("verify", "--log", copy, cwd=tmp_path, code=14)
    assert str(frames) in told.stderr.decode()
    run("replay", "--log", copy, cwd=tmp_path, code=14)


def test_inspect_shows_frames(log: Path):
    found = as_json("inspect", "1", "--log", log, cwd=log.parent)
    kinds = [frame["kind"] for frame in found["frames"]]
    assert kinds.count("commit") == 2
    assert sum(frame["count"] for frame in found["frames"] if frame["kind"] == "events") == 20_010
    assert found["first_position"] == 1
    assert found["last_position"] == 20_010
    for name in ("00000000000000000001", "@20010"):
        assert run("inspect", name, "--log", log, cwd=log.parent).stdout.count(b"commit") == 2
    for name in ("20011", "../log", "9" * 5000):
        failed(16, "inspect", "--log", log, name, cwd=log.parent)


def test_init_makes_an_empty_log_once(tmp_path: Path):
    found = as_json("init", "--log", "made", "--partitions", "3", cwd=tmp_path)
    assert (found["log"], found["partitions"]) == ("made", 3)
    stats = as_json("stats", "--log", "made", cwd=tmp_path)
    assert (stats["events"], stats["partitions"], stats["id"]) == (0, [0, 0, 0], found["id"])
    assert stats["timestamp_min"] is None
    run("stats", "--log", "made", cwd=tmp_path)
    failed(11, "init", "--log", "made", cwd=tmp_path)
    run("ingest", "--log", "made", cwd=tmp_path, stdin=line(0))
    assert as_json("stats", "--log", "made", cwd=tmp_path)["partitions"].count(1) == 1


def test_version_and_help(tmp_path: Path):
    assert re.fullmatch(rb"evtool \d+\.\d+\.\d+\n", run("--version", cwd=tmp_path).stdout)
    told = run("--help", cwd=tmp_path).stdout.decode()
    for command in ("init", "ingest", "replay", "stats", "verify", "inspect"):
        assert command in told
    assert "--max-latency" in run("ingest", "-h", cwd=tmp_path).stdout.decode()
    run(cwd=tmp_path, code=2)


@pytest.mark.parametrize("command", [("stats", "--json"), ("verify",)], ids=" ".join)
def test_a_reader_that_went_away_is_no_error_worth_a_word(log: Path, command: tuple[str, ...]):
    with start(*command, "--log", log, cwd=log.parent) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (141, -signal.SIGPIPE)
