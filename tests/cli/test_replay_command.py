"""`evtool replay`: which events, in which form, into which file."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from command_line import COMMAND, check, digest, environment, failed, line, replayed, run, start

from evtool import shop

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = [
    *("position", "recorded_at", "event_id", "source_id", "stream_id", "event_type", "timestamp"),
    *("stream_version", "schema_version", "payload", "metadata"),
]


def lines_of(log: Path, *flags: str) -> list[dict[str, Any]]:
    """The events of a replay, as the command prints them."""
    return [json.loads(text) for text in run("replay", "--log", log, *flags, cwd=log.parent).stdout.splitlines()]


def unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:
        return stream.read()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 events, one a minute, in batches of 30; some have ids that look like other bounds."""
    folder = tmp_path_factory.mktemp("replay")
    ids = {60: "2026-01-31", 61: "@7", 62: "-24h"}
    data = b"".join(
        line(
            number,
            event_id=ids.get(number, f"e-{number}"),
            timestamp=(START + timedelta(minutes=number)).isoformat(),
            event_type=("Seen", "Bought")[number % 2],
            source_id=("web", "app", "till")[number % 3],
        )
        for number in range(100)
    )
    run("ingest", "--log", folder / "log", "--batch-events", "30", cwd=folder, stdin=data)
    return folder / "log"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--from", "@20", "--to", "@21"), range(19, 20)),
        (("--from", "id:2026-01-31", "--to", "2026-01-01T01:05:00Z", "--type", "Bought"), [61, 63]),
        (
            ("--from", "-24h", "--clock", "recorded", "--stream", "u-1", "--stream", "u-2", "--limit", "3"),
            [1, 2, 6],
        ),
        (("--source", "web", "--type", "Seen", "--to", "e-20", "--partition", "0"), None),
    ],
    ids=lambda value: " ".join(map(str, value or ())),
)
def test_a_selection(log: Path, flags: tuple[str, ...], expected):
    found = [event["payload"]["n"] for event in lines_of(log, *flags)]
    assert found == list(expected) if expected is not None else set(found) <= set(range(0, 20, 6))


def test_lines_have_their_keys_in_order_and_times_nine_digits(log: Path):
    for event in lines_of(log, "--limit", "5"):
        assert list(event) == KEYS[:-1]
        for name in ("timestamp", "recorded_at"):
            assert len(event[name]) == len("2026-01-01T00:00:00.000000000Z")
            assert event[name].endswith("Z")
    assert replayed(log)[1]["timestamp"] == "2026-01-01T00:01:00.000000000Z"


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--from", "nobody"), 16, "'nobody'"),
        (("--from", "@²"), 3, "'@²'"),
        (("--partition", "8"), 3, "0 to 7"),
        (("--from", b"\xff"), 16, ""),
        (("--from", ""), 3, "a bound is empty"),
        (("--to", ""), 3, "a bound is empty"),
        (("--from", "@" + "9" * 30), 3, "no position"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_cannot_be_selected_is_an_error_in_a_sentence(log: Path, flags, code: int, told: str):
    assert told in failed(code, "replay", "--log", log, *flags, cwd=log.parent)


@pytest.mark.parametrize("flags", [("--limit", "-1"), ("--limit", f"{10**30}"), ("--clock", "wall")])
def test_a_flag_that_makes_no_sense_is_the_command_line_s_error(log: Path, flags: tuple[str, ...]):
    run("replay", "--log", log, *flags, cwd=log.parent, code=2)


def test_a_file_holds_what_standard_output_would_and_is_there_when_it_is_whole(log: Path, tmp_path: Path):
    whole = run("replay", "--log", log, cwd=tmp_path).stdout
    for name, read in (("plain", bytes), ("a.zst", unzstd)):
        done = run("replay", "--log", log, "--out", name, cwd=tmp_path)
        assert (done.stdout, done.stderr) == (b"", b"")
        assert read((tmp_path / name).read_bytes()) == whole
    failed(16, "replay", "--log", log, "--from", "nobody", "--out", "plain", cwd=tmp_path)
    assert (tmp_path / "plain").read_bytes() == whole
    assert failed(3, "replay", "--log", log, "--out", "/", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zst", "plain"]


def test_a_link_stays_one_and_what_it_leads_to_is_written(log: Path, tmp_path: Path):
    whole = run("replay", "--log", log, cwd=tmp_path).stdout
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "target"
    (tmp_path / "link").symlink_to("folder/target")
    (tmp_path / "link.zst").symlink_to("link")
    for name in ("link", "link", "link.zst"):  # to nothing, to a file, to another link
        run("replay", "--log", log, "--out", name, cwd=tmp_path)
        assert (tmp_path / name).is_symlink()
        found = target.read_bytes()
        assert (unzstd(found) if name == "link.zst" else found) == whole
    (tmp_path / "circle").symlink_to("circle")
    assert "in a circle" in failed(3, "replay", "--log", log, "--out", "circle", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["circle", "folder", "link", "link.zst", "target"]


@pytest.mark.parametrize("name", ["log.json", "new.ndjson", "00000000000000000001/frames.log", "link"])
def test_no_replay_is_written_over_its_own_log(log: Path, tmp_path: Path, name: str):
    (tmp_path / "link").symlink_to(log / "HEAD")
    target = tmp_path / name if name == "link" else log / name
    before = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    assert "folder of the log" in failed(3, "replay", "--log", log, "--out", target, cwd=tmp_path)
    assert {path: path.read_bytes() for path in log.rglob("*") if path.is_file()} == before


def test_a_name_may_be_as_long_as_the_file_system_has_it(log: Path, tmp_path: Path):
    for name in ("é" * 125, "x" * 255):
        run("replay", "--log", log, "--out", name, cwd=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_limit_may_be_larger_than_the_log(log: Path):
    assert len(lines_of(log, "--limit", f"{2**63 - 1}")) == 100
    assert lines_of(log, "--limit", "0") == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose replay no pipe holds."""
    folder = tmp_path_factory.mktemp("large")
    run("ingest", "--log", folder / "log", cwd=folder, stdin=b"".join(shop.blocks(40_000, 5)))
    return folder / "log"


def test_a_reader_that_has_enough_is_no_error_worth_a_word(large: Path):
    with start("replay", "--log", large, cwd=large.parent) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["position"] == 1
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (141, -signal.SIGPIPE)  # a shell reports either as 141


def test_an_interrupt_is_told_in_a_word(large: Path):
    with start("replay", "--log", large, cwd=large.parent) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    check(process.returncode, told, 130)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_part_of_a_file(large: Path, tmp_path: Path, number: signal.Signals, code: int):
    (tmp_path / "out.zst").write_text("before")
    process = start("replay", "--log", large, "--out", "out.zst", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while process.poll() is None and len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the machine was quicker than the signal")
    check(process.returncode, told, code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zst"]
    assert (tmp_path / "out.zst").read_text() == "before"


def test_a_full_disk_behind_standard_output_is_an_error(large: Path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    for command in (("replay",), ("stats", "--json")):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [*COMMAND, *command, "--log", str(large)],
                cwd=large.parent,
                stdout=full,
                stderr=subprocess.PIPE,
                env=environment(),
                check=False,
            )
        check(done.returncode, done.stderr, None)
        assert done.returncode in (20, 21)
        assert b"No space left" in done.stderr


@pytest.mark.parametrize("flags", [(), ("--batch-events", "999", "--max-latency", "1h")], ids=["", "small"])
def test_a_replay_into_another_log_makes_an_equal_one(large: Path, tmp_path: Path, flags: tuple[str, ...]):
    with start("replay", "--log", large, cwd=tmp_path) as replay:
        assert replay.stdout is not None
        done = run("ingest", "--log", "copy", *flags, "--json", cwd=tmp_path, stdin=replay.stdout)
    assert replay.returncode == 0
    assert json.loads(done.stdout)["accepted"] == 40_000
    assert digest(tmp_path / "copy") == digest(large)
    first, second = (replayed(path)[0] for path in (large, tmp_path / "copy"))
    assert first.pop("recorded_at") < second.pop("recorded_at")  # what the input says of it is ignored
    assert first == second


def test_what_a_line_says_of_its_position_is_ignored(tmp_path: Path):
    data = b"".join(line(number, position=7 - number, recorded_at="2001-01-01T00:00:00Z") for number in range(3))
    run("ingest", cwd=tmp_path, stdin=data)
    events = replayed(tmp_path / "segments")
    assert [event["position"] for event in events] == [1, 2, 3]
    assert events[0]["recorded_at"] > "2020"


def test_a_parent_that_blocks_sigpipe_does_not_make_an_error_of_it(large: Path):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        process = start("replay", "--log", large, cwd=large.parent)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
    assert process.returncode in (141, -signal.SIGPIPE)
