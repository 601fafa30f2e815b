"""Everything that can go wrong from outside ends as a sentence and its own exit code, and breaks nothing."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import within
from command_line import COMMAND, check, digest, environment, failed, letters, line, lines, numbers, run
from samples import config, event

import evtool

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")


def test_there_is_no_log(tmp_path: Path):
    for command in (("replay",), ("verify", "--json")):
        told = failed(10, *command, "--log", "nowhere", cwd=tmp_path)
        assert "there is no log in nowhere" in told
        assert "evtool init" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "full"])
def test_where_no_log_can_be_made(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    told = failed(11, "ingest", "--log", name, cwd=tmp_path, stdin=lines(0))
    assert name.split("/")[0] in told
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["diary.txt", "file", "full"]


def test_a_log_of_a_newer_format_is_left_alone(tmp_path: Path):
    run("ingest", cwd=tmp_path, stdin=lines(0))
    path = tmp_path / "segments" / "log.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": manifest["version"] + 1}))
    before = {file: file.read_bytes() for file in (tmp_path / "segments").rglob("*") if file.is_file()}
    assert "newer evtool" in failed(12, "ingest", cwd=tmp_path, stdin=lines(1))
    assert {file: file.read_bytes() for file in (tmp_path / "segments").rglob("*") if file.is_file()} == before
    path.write_text("{}")
    assert "log.json" in failed(14, "stats", cwd=tmp_path)


def test_a_log_that_another_writes_to(tmp_path: Path):
    with evtool.open(tmp_path / "segments", create=True) as log:
        log.append([json.loads(line(0))])
        told = failed(13, "ingest", cwd=tmp_path, stdin=lines(1))
        assert f"process {os.getpid()}" in told
        assert numbers(tmp_path / "segments") == [0]
        log.append([json.loads(line(2))])
    run("ingest", cwd=tmp_path, stdin=lines(3))
    assert numbers(tmp_path / "segments") == [0, 2, 3]


def test_inputs_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "good").write_bytes(lines(0))
    (tmp_path / "folder").mkdir()
    for name in ("none", "folder"):
        assert name[:20] in failed(4, "ingest", "good", name, cwd=tmp_path)
    assert not (tmp_path / "segments").exists()  # told before anything was made


@not_as_root
def test_files_and_folders_that_may_not_be_used(tmp_path: Path):
    (tmp_path / "secret").write_bytes(lines(0))
    (tmp_path / "secret").chmod(0)
    assert "secret" in failed(22, "ingest", "secret", cwd=tmp_path)
    (tmp_path / "fixed").mkdir(mode=0o500)
    failed(22, "ingest", "--log", "fixed/log", cwd=tmp_path, stdin=lines(0))
    run("ingest", cwd=tmp_path, stdin=lines(0))
    failed(22, "replay", "--out", "fixed/out", cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[ingest]\nbatch_event = 5", "Did you mean 'batch_events'?"),
        ("[log", "is not TOML"),
    ],
)
def test_a_mistake_in_the_configuration(tmp_path: Path, text: str, told: str):
    (tmp_path / "evtool.toml").write_text(text)
    (tmp_path / "below").mkdir()
    message = failed(3, "ingest", cwd=tmp_path / "below", stdin=lines(0))
    assert told in message
    assert str(tmp_path / "evtool.toml") in message
    assert not (tmp_path / "segments").exists()


def test_the_working_folder_is_gone(tmp_path: Path):
    shell = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    command = ["sh", "-c", shell, "sh", *COMMAND, "stats"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    check(done.returncode, done.stderr, 3)
    assert b"working folder" in done.stderr


def test_flags_that_make_no_sense(tmp_path: Path):
    for flag, value in (
        ("--batch-bytes", "9" * 400 + "GB"),
        ("--source", b"\xff"),
    ):
        assert flag in failed(3, "ingest", flag, value, cwd=tmp_path, stdin=lines(0))
    failed(3, "init", "--partitions", "0", cwd=tmp_path)
    run("ingest", "--batch-events", "many", cwd=tmp_path, code=2)
    assert not letters(tmp_path / "segments")


@pytest.mark.parametrize("source", ["", "x" * 1025, b"\xff"], ids=["empty", "long", "no UTF-8"])
def test_a_source_that_makes_no_sense_leaves_no_log_behind(tmp_path: Path, source: str | bytes):
    assert "--source" in failed(3, "ingest", "--source", source, cwd=tmp_path, stdin=lines(0))
    assert list(tmp_path.iterdir()) == []
    if isinstance(source, str):
        (tmp_path / "evtool.toml").write_text(f'[ingest]\nsource = "{source}"\n')
        assert "source" in failed(3, "ingest", cwd=tmp_path, stdin=lines(0))
        assert not (tmp_path / "segments").exists()


def test_arguments_that_are_not_utf_8_are_refused_in_a_sentence_and_leave_nothing(tmp_path: Path):
    (tmp_path / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\n')
    within.run("ingest", "--batch-events", "50", cwd=tmp_path, stdin=lines(*range(3_000)))
    for command in (
        ("snapshot", "take", "event-counts", "--label"),
        ("compact", "--rewrite", "--materialise"),
        ("projections", "kept"),
        ("dead-letters", "list", "--source"),
        ("nightly", "--only", "recompute", "--projection"),
    ):
        within.run(*command, "\udcff", cwd=tmp_path, code=None)
    for command in (("snapshot", "take", "event-counts", "--label"), ("compact", "--rewrite", "--materialise")):
        assert "is no text in UTF-8" in within.failed(3, *command, "payload.\udcff", cwd=tmp_path)
    assert not list(tmp_path.glob("segments/snapshots/*.tmp"))


def test_a_log_of_more_segments_than_files_may_be_open_at_first(tmp_path: Path):
    with evtool.open(tmp_path / "segments", create=True, config=config(segment_bytes=1)) as log:
        for number in range(30):
            log.append([event(number)])
    limits = (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits)  # noqa: E731
    assert run("replay", cwd=tmp_path, preexec_fn=few).stdout.count(b"\n") == 30


def test_a_name_that_is_too_long(tmp_path: Path):
    name = "x" * 300
    for command in (("ingest", "--log", name), ("replay", "--log", name), ("init", "--log", f"a/{name}/b")):
        assert "shorter name" in failed(20, *command, cwd=tmp_path, stdin=lines(0))
    assert "File name too long" in failed(4, "ingest", name, cwd=tmp_path)
    assert not (tmp_path / "segments").exists()
    run("ingest", cwd=tmp_path, stdin=lines(0))
    assert "shorter name" in failed(20, "replay", "--out", name, cwd=tmp_path)


def test_where_the_log_is_flag_then_environment_then_file(tmp_path: Path):
    (tmp_path / "evtool.toml").write_text('[log]\npath = "of-file"\n')
    run("ingest", cwd=tmp_path, stdin=lines(0))
    of_environment = environment(EVTOOL_LOG="of-environment")
    run("ingest", cwd=tmp_path, stdin=lines(1), env=of_environment)
    run("ingest", "--log", "of-flag", cwd=tmp_path, stdin=lines(2), env=of_environment)
    assert [numbers(tmp_path / name) for name in ("of-file", "of-environment", "of-flag")] == [[0], [1], [2]]
    assert {path.name for path in tmp_path.iterdir()} == {"evtool.toml", "of-environment", "of-file", "of-flag"}


def limited(file_bytes: int) -> dict[str, Callable[[], None]]:
    """Options of a process none of whose files may grow beyond that: as a full disk, but for one process."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))

    return {"preexec_fn": limit}


@pytest.fixture(scope="module")
def _limits_hold(tmp_path_factory: pytest.TempPathFactory) -> None:
    done = run("init", cwd=tmp_path_factory.mktemp("limit"), code=None, **limited(16))
    if done.returncode == 0:
        pytest.skip("this system does not keep to RLIMIT_FSIZE")


@pytest.mark.usefixtures("_limits_hold")
def test_no_space_for_the_events(tmp_path: Path):
    data = [line(number, metadata={"fill": os.urandom(500).hex()}) for number in range(3000)]
    flags = ("--batch-events", "200", "--json")
    done = run("ingest", *flags, cwd=tmp_path, stdin=b"".join(data), code=21, **limited(2**20))
    told = done.stderr.decode()
    assert "evtool: cannot write to" in told
    assert "Free some space" in told
    kept = numbers(tmp_path / "segments")
    assert kept == list(range(len(kept)))
    assert 0 < len(kept) < 3000
    assert json.loads(done.stdout)["accepted"] == len(kept)
    digest(tmp_path / "segments")
    # With space again, it goes on from there.
    run("ingest", cwd=tmp_path, stdin=b"".join(data[len(kept) :]))
    assert numbers(tmp_path / "segments") == list(range(3000))


@pytest.mark.usefixtures("_limits_hold")
def test_no_space_for_the_dead_letters(tmp_path: Path):
    data = b"".join(line(number) + os.urandom(500).hex().encode() + b"\n" for number in range(2000))
    run("ingest", "--batch-events", "100", cwd=tmp_path, stdin=data, code=21, **limited(2**19))
    events = len(numbers(tmp_path / "segments"))
    path = tmp_path / "segments" / "dead-letters" / "dead-letters.ndjson"
    whole = path.read_bytes().count(b"\n")
    assert events <= whole < 2000
    run("ingest", cwd=tmp_path, stdin=b"one more\n")
    assert [letter.get("raw") for letter in letters(tmp_path / "segments")][-1] == "one more"
    assert len(letters(tmp_path / "segments")) == whole + 1


@pytest.mark.usefixtures("_limits_hold")
def test_no_space_for_a_new_log(tmp_path: Path):
    failed(21, "ingest", cwd=tmp_path, stdin=lines(0), **limited(16))
    run("ingest", cwd=tmp_path, stdin=lines(0))
    assert numbers(tmp_path / "segments") == [0]


@pytest.mark.usefixtures("_limits_hold")
def test_no_space_for_a_replay_leaves_no_file(tmp_path: Path):
    run("ingest", cwd=tmp_path, stdin=lines(*range(1000)))
    for name in ("out", "out.zst"):
        failed(21, "replay", "--out", name, cwd=tmp_path, **limited(512))
    assert [path.name for path in tmp_path.iterdir()] == ["segments"]


def test_what_was_left_of_a_killed_batch_is_cut_and_told(tmp_path: Path):
    run("ingest", cwd=tmp_path, stdin=lines(0, 1))
    frames = next((tmp_path / "segments").glob("0*/frames.log"))
    with frames.open("ab") as file:
        file.write(frames.read_bytes()[64:200])
    done = run("ingest", cwd=tmp_path, stdin=lines(2))
    assert b"136 bytes" in done.stderr
    assert numbers(tmp_path / "segments") == [0, 1, 2]
    digest(tmp_path / "segments")
