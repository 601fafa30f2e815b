"""The configuration: what each key takes, who goes before whom, and what is said of a mistake."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from evtool import config as configuration
from evtool import quantities
from evtool.config import (
    ArchiveConfig,
    BackupConfig,
    Codec,
    Config,
    IngestConfig,
    LogConfig,
    NightlyConfig,
    ProjectionsConfig,
    RetainConfig,
    SchemasConfig,
    SnapshotsConfig,
)
from evtool.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVTOOL_LOG", raising=False)


def written(folder: Path, text: str) -> Path:
    path = folder / "evtool.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> ConfigError:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        configuration.load(working_folder=folder)
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 3
    return caught.value


def test_the_defaults_are_those_that_are_documented():
    assert Config().log_path == Path("segments")
    assert LogConfig() == LogConfig(8, 256 * 1024**2, "batch", Codec("zstd", 1))
    assert IngestConfig() == IngestConfig(None, 262_144, 96 * 1024**2, 500, "metadata")


def test_without_a_file_the_defaults_hold(tmp_path: Path):
    assert configuration.load(working_folder=tmp_path) == Config()


def test_every_key_can_be_set(tmp_path: Path):
    path = written(
        tmp_path,
        """
        [log]
        path = "here/log"
        partitions = 16
        segment_bytes = "1 GiB"
        fsync = "never"
        codec = "zstd:9"
        [ingest]
        source = "shop"
        batch_events = 1000
        batch_bytes = "8MB"
        max_latency_ms = "2s"
        unknown_fields = "reject"
        dead_letter_alert = 0.01
        format = "cloudevents"
        derive_id = "content"
        timezone = "Europe/Berlin"
        records = "Records"
        [ingest.fields]
        stream_id = ["a.b", "c"]
        [schemas]
        compatibility = "full_transitive"
        unknown_types = "reject"
        [projections]
        folder = "views"
        read_models = "../models"
        [projections.parameters]
        timezone = "Europe/Berlin"
        [projections.parameters.sessions]
        gap = "1h"
        [snapshots]
        keep_daily = 30
        keep_weekly = 0
        [nightly]
        projections = ["sessions", "mine", "sessions"]
        keep_reports = 3
        [retain]
        events = "90d"
        by = "timestamp"
        size = "50GiB"
        unused_read_models = "1.5h"
        snapshots = "52 w"
        dead_letters = "90s"
        [retain.types]
        PageViewed = "30d"
        [backup]
        to = "s3://backups/shop"
        keep = 30
        patience_ms = "2m"
        [archive]
        to = "s3://archive/shop"
        older_than = "90d"
        by = "timestamp"
        keep_local = "50GiB"
        cache_bytes = "2GiB"
        patience_ms = "3m"
        nightly = "full"
        """,
    )
    found = configuration.load(working_folder=tmp_path)
    assert found.file == path
    assert found.log_path == tmp_path / "here" / "log"
    assert found.log == LogConfig(16, 1024**3, "never", Codec("zstd", 9))
    assert found.ingest == IngestConfig(
        *("shop", 1000, 8_000_000, 2000, "reject", "cloudevents", "content", "Europe/Berlin", "Records"),
        {"stream_id": ["a.b", "c"]},
        0.01,
    )
    assert found.schemas == SchemasConfig("full_transitive", "reject")
    parameters = {"timezone": "Europe/Berlin", "sessions": {"gap": "1h"}}
    assert found.projections == ProjectionsConfig("views", "../models", parameters)
    assert found.definitions_path == tmp_path / "views"
    assert found.read_models_path == tmp_path / "../models"
    assert found.snapshots == SnapshotsConfig(30, 0)
    assert found.nightly == NightlyConfig(("sessions", "mine"), 3)
    assert found.retain == RetainConfig(
        *(90 * 86_400, "timestamp", 50 * 1024**3, {"PageViewed": 30 * 86_400}, 5_400, 52 * 7 * 86_400, 90)
    )
    assert found.backup == BackupConfig("s3://backups/shop", 30, 120_000)
    assert found.archive == ArchiveConfig(
        *("s3://archive/shop", 90 * 86_400, "timestamp", 50 * 1024**3, 2 * 1024**3, 180_000, "full")
    )
    sections = (ProjectionsConfig, SnapshotsConfig, NightlyConfig, RetainConfig, BackupConfig, ArchiveConfig)
    kinds = (LogConfig, IngestConfig, SchemasConfig, *sections)
    assert {item.name for kind in kinds for item in fields(kind)} == set(configuration.CHECKS)


def test_the_nearest_file_counts_and_paths_are_relative_to_it(tmp_path: Path):
    written(tmp_path, '[log]\npath = "outer"')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert configuration.load(working_folder=inner).log_path == tmp_path / "outer"
    written(tmp_path / "a", '[log]\npath = "/absolute"\n[ingest]\nbatch_events = 5')
    found = configuration.load(working_folder=inner)
    assert (found.log_path, found.ingest.batch_events) == (Path("/absolute"), 5)
    (inner / "evtool.toml").mkdir()  # a folder of that name is no configuration
    assert configuration.load(working_folder=inner) == found


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written(tmp_path, '[log]\npath = "of-file"')
    assert configuration.load(working_folder=tmp_path).log_path == tmp_path / "of-file"
    monkeypatch.setenv("EVTOOL_LOG", "of-environment")
    assert configuration.load(working_folder=tmp_path).log_path == Path("of-environment")
    assert configuration.load(Path("of-flag"), tmp_path).log_path == Path("of-flag")
    monkeypatch.setenv("EVTOOL_LOG", "")
    assert configuration.load(working_folder=tmp_path).log_path == tmp_path / "of-file"


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[log]\npartition = 4", "log.partition", "partitions"),
        ("[ingest]\nbatch_event = 4", "ingest.batch_event", "batch_events"),
        ("[ingest]\nmax_latency = 4", "ingest.max_latency", "max_latency_ms"),
        ("[injest]\nsource = 'a'", "injest", "ingest"),
        ("[log]\npth = 'a'", "log.pth", "path"),
        ("log_path = 'a'", "log_path", ""),
        ("[ingest.field]\nevent_id = 'id'", "ingest.field", "fields"),
        ("[log]\nzzz = 1", "log.zzz", ""),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(tmp_path: Path, text: str, key: str, nearest: str):
    error = refusal(tmp_path, text)
    assert repr(key) in error.message
    if nearest:
        assert error.hint == f"Did you mean {nearest!r}?"
    else:
        assert error.hint


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("log", "partitions = 0"),
        ("log", "partitions = 1025"),
        ("log", "partitions = -1"),
        ("log", "partitions = 1.5"),
        ("log", "partitions = true"),
        ("log", 'partitions = "8"'),
        ("log", "partitions = [8]"),
        ("log", "partitions = 2026-01-01"),
        ("log", "segment_bytes = 65535"),
        ("log", 'segment_bytes = "65 GiB"'),
        ("log", 'segment_bytes = "much"'),
        ("log", "segment_bytes = true"),
        ("log", "segment_bytes = {}"),
        ("log", 'fsync = "always"'),
        ("log", "fsync = false"),
        ("log", "fsync = []"),
        ("log", 'codec = "gzip"'),
        ("log", 'codec = "zstd:23"'),
        ("log", 'codec = "zstd:-8"'),
        ("log", 'codec = "lz4:1"'),
        ("log", "codec = 3"),
        ("log", 'path = ""'),
        ("log", "path = 5"),
        ("ingest", 'source = ""'),
        ("ingest", "source = 5"),
        ("ingest", "batch_events = 0"),
        ("ingest", "batch_events = 4000001"),
        ("ingest", 'batch_events = "100"'),
        ("ingest", 'batch_bytes = "0"'),
        ("ingest", 'batch_bytes = "2GiB"'),
        ("ingest", f'batch_bytes = "{"9" * 400}GB"'),
        ("ingest", "max_latency_ms = 0"),
        ("ingest", 'max_latency_ms = "2 days"'),
        ("ingest", 'max_latency_ms = "-1s"'),
        ("ingest", 'unknown_fields = "drop"'),
        ("ingest", "dead_letter_alert = 1.01"),
        ("ingest", "dead_letter_alert = -0.01"),
        ("ingest", "dead_letter_alert = true"),
        ("ingest", "dead_letter_alert = nan"),
        ("ingest", 'dead_letter_alert = "1 %"'),
        ("retain", "events = 90"),
        ("retain", 'events = "90"'),
        ("retain", 'events = "0d"'),
        ("retain", 'events = "-1d"'),
        ("retain", 'events = "3 months"'),
        ("retain", 'by = "position"'),
        ("retain", "size = 0"),
        ("retain", 'size = "lots"'),
        ("retain", 'types = "30d"'),
        ("retain", "types = { PageViewed = 30 }"),
    ],
)
def test_a_value_of_the_wrong_kind_or_size_is_named(tmp_path: Path, section: str, line: str):
    error = refusal(tmp_path, f"[{section}]\n{line}")
    assert f"{section}.{line.split(' ')[0]}" in error.message


@pytest.mark.parametrize("text", ["log = 5", "ingest = 'all'", "log = []"])
def test_a_section_must_be_a_table(tmp_path: Path, text: str):
    error = refusal(tmp_path, text)
    assert text.split(" ")[0] in error.message
    assert "table" in error.message


@pytest.mark.parametrize(
    "data",
    [b"[log", b"partitions: 8", b"[log]\npath = \xff", b'[log]\npath = "\\q"', b"\x00", b"x = " + b"9" * 5000],
    ids=lambda data: repr(data[:20]),
)
def test_a_file_that_is_not_toml_is_an_error_and_not_ignored(tmp_path: Path, data: bytes):
    (tmp_path / "evtool.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"evtool\.toml"):
        configuration.load(working_folder=tmp_path)


def test_a_path_that_can_be_none_is_an_error_of_the_configuration(tmp_path: Path):
    assert "log.path" in refusal(tmp_path, '[log]\npath = "a\\u0000b"').message


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (7, 7),
        ("7", 7),
        ("7b", 7),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1 MB", 10**6),
        ("2gb", 2 * 10**9),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("1.5MiB", 1_572_864),
        (" 3 GiB ", 3 * 1024**3),
        ("0", 0),
    ],
)
def test_a_size(text: str | int, size_bytes: int):
    assert quantities.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1", "1 TB", "1,5MB", "1e6", "1 M B", "0x10", "inf", True, None, []])
def test_what_is_no_size(text: Any):
    with pytest.raises(ValueError, match="is no size"):
        quantities.parse_size(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [(5, 5), ("5", 5), ("5ms", 5), ("5 ms", 5), ("2s", 2000), ("1.5s", 1500), ("2M", 120_000), ("1h", 3_600_000)],
)
def test_a_duration(text: str | int, milliseconds: int):
    assert quantities.parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["", "s", "-5", "5d", "1e3", "5 s s", True, None])
def test_what_is_no_duration(text: Any):
    with pytest.raises(ValueError, match="is no duration"):
        quantities.parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "seconds", "told"),
    [
        ("90d", 7_776_000, "90d"),
        (" 2 w ", 1_209_600, "2w"),
        ("1.5d", 129_600, "36h"),
        ("90s", 90, "90s"),
        ("9" * 15 + "w", 10**10, "10000000000s"),
    ],
)
def test_an_age(text: str, seconds: int, told: str):
    assert quantities.parse_age_seconds(text) == seconds
    assert quantities.age_text(seconds) == told


@pytest.mark.parametrize("text", ["", "d", "90", 90, "5D", "-5d", "1e3d", "5 ms", "5d5d", True, None, []])
def test_what_is_no_age(text: Any):
    with pytest.raises(ValueError, match="is no age"):
        quantities.parse_age_seconds(text)


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("zstd", Codec("zstd", 1)),
        ("ZSTD:3", Codec("zstd", 3)),
        ("zstd:0", Codec("zstd", 0)),
        ("zstd:-7", Codec("zstd", -7)),
        ("zstd:22", Codec("zstd", 22)),
        ("lz4", Codec("lz4", 0)),
        ("none", Codec("none", 0)),
    ],
)
def test_a_codec(text: str, codec: Codec):
    assert configuration.parse_codec(text) == codec
    assert configuration.parse_codec(str(codec)) == codec


@pytest.mark.parametrize("text", ["", "zstd:", "zstd:23", "zstd:-8", "zstd:1.5", "lz4:1", "none:0", "snappy"])
def test_what_is_no_codec(text: Any):
    with pytest.raises(ValueError, match="is no codec"):
        configuration.parse_codec(text)


def test_flags_change_what_they_name_and_nothing_else():
    config = IngestConfig(source="shop", batch_events=7)
    assert configuration.with_flags(config, source=None, batch_events=None) == config
    changed = configuration.with_flags(config, batch_bytes="1MiB", max_latency_ms="2s")
    assert changed == IngestConfig("shop", 7, 1024**2, 2000)
    assert configuration.with_flags(LogConfig(), partitions=3).partitions == 3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"batch_events": 0}, "--batch-events"),
        ({"batch_bytes": "lots"}, "--batch-bytes"),
        ({"max_latency_ms": "soon"}, "--max-latency"),
        ({"source": ""}, "--source"),
    ],
)
def test_a_bad_flag_is_named_as_it_was_written(flags: dict[str, Any], named: str):
    with pytest.raises(ConfigError) as caught:
        configuration.with_flags(IngestConfig(), **flags)
    assert caught.value.message.startswith(named + ":")


@pytest.mark.parametrize("place", ["segments", "segments/index", "segments/snapshots", f"segments/{1:020}", "./a"])
def test_read_models_among_the_files_of_the_log_are_refused(tmp_path: Path, place: str):
    (tmp_path / "a").symlink_to("segments/index")
    told = refusal(tmp_path, f'[projections]\nread_models = "{place}"\n')
    assert "read_models" in told.message


@pytest.mark.parametrize(
    "place", ["models", "segments/read-models", "segments/read-models/mine", "segments-models"]
)
def test_read_models_may_be_anywhere_else(tmp_path: Path, place: str):
    written(tmp_path, f'[projections]\nread_models = "{place}"\n')
    assert configuration.load(working_folder=tmp_path).read_models_path == tmp_path / place


def test_tables_that_nest_without_end_are_told_not_walked_into(tmp_path: Path):
    path = tmp_path / "evtool.toml"
    path.write_text(f"a = {'[' * 5000}{']' * 5000}\n")
    with pytest.raises(ConfigError, match="nests deeper"):
        configuration.read_file(path)
