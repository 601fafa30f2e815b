"""Configuration: defaults, then evtool.toml, then the environment, then flags -> one frozen `Config`.

evtool.toml is looked for in the working folder and its parents, as git looks for its own; a relative
path in it is relative to the file. Every key is checked: an unknown one is an error that names the nearest.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from evtool.errors import ConfigError, LogReadOnlyError
from evtool.location import mirror_folder, url_of
from evtool.quantities import GIB, KIB, MIB, parse_age_seconds, parse_duration_ms, parse_size

FILE_NAME = "evtool.toml"
DEFAULT_LOG = "segments"
DEFAULT_READ_MODELS = "read-models"

MATERIALISE_PROJECTIONS = "projections"


Fsync = Literal["batch", "never"]
Compatibility = Literal[
    "none", "backward", "forward", "full", "backward_transitive", "forward_transitive", "full_transitive"
]
Format = Literal["evtool", "json", "cloudevents", "csv", "parquet"]
Section = TypeVar(
    "Section",
    "LogConfig",
    "IngestConfig",
    "SchemasConfig",
    "ProjectionsConfig",
    "SnapshotsConfig",
    "NightlyConfig",
    "RetainConfig",
    "BackupConfig",
    "ArchiveConfig",
)


@dataclass(frozen=True)
class Codec:
    """How the column buffers of a frame are compressed: "zstd" with a level, "lz4" or "none"."""

    name: Literal["zstd", "lz4", "none"] = "zstd"
    level: int = 1

    def __str__(self) -> str:
        return f"zstd:{self.level}" if self.name == "zstd" else self.name


@dataclass(frozen=True)
class LogConfig:
    """How a log is written. `partitions` counts only when the log is made: a log keeps its number for ever.

    `materialise` names paths that get columns in compacted segments; MATERIALISE_PROJECTIONS those of projections.
    """

    partitions: int = 8
    segment_bytes: int = 256 * MIB
    fsync: Fsync = "batch"
    codec: Codec = Codec()
    materialise: tuple[str, ...] = (MATERIALISE_PROJECTIONS,)


@dataclass(frozen=True)
class IngestConfig:
    """When a batch is cut, whichever limit is reached first, and how what comes in becomes events.

    `fields` is the table `[ingest.fields]` as it was written; `evtool.ingest.mapping` knows what it means.
    Without a `format` it is "json" where there are `fields`, and "evtool" otherwise.
    Of `dead_letter_alert`, a share of the lines, more dead letters set the exit code.
    """

    source: str | None = None
    batch_events: int = 262_144
    batch_bytes: int = 96 * MIB
    max_latency_ms: int = 500
    unknown_fields: Literal["metadata", "reject"] = "metadata"
    format: Format | None = None
    derive_id: Literal["content"] | None = None
    timezone: str | None = None
    records: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    dead_letter_alert: float | None = None


@dataclass(frozen=True)
class SchemasConfig:
    """What a new type's schemas must keep to, and what becomes of events whose type has no schema."""

    compatibility: Compatibility = "backward"
    unknown_types: Literal["allow", "reject"] = "allow"


@dataclass(frozen=True)
class ProjectionsConfig:
    """Where definitions and read models are, and what parameters are instead of their defaults.

    `folder` of one's own definitions: relative to evtool.toml, or to the working folder without one. Without
    `read_models` these are in the log's folder. `parameters` is the table as it was written.
    """

    folder: str = "projections"
    read_models: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotsConfig:
    """Which snapshots without a label a nightly run keeps: the last one of so many days, and of so many weeks."""

    keep_daily: int = 7
    keep_weekly: int = 4


@dataclass(frozen=True)
class NightlyConfig:
    """Which `projections` a nightly run recomputes and takes snapshots of, and how many reports it keeps.

    Without names they are one's own, and those built-in ones that have a read model.
    """

    projections: tuple[str, ...] | None = None
    keep_reports: int = 90


@dataclass(frozen=True)
class RetainConfig:
    """What `retain` lets go of: ages in seconds, `size` in bytes of stored events; None and no type: nothing.

    Events are as old as their recording or their timestamp is, which `by` says. A type in `types` goes by its own
    age. `unused_read_models` are those that do not serve.
    """

    events: int | None = None
    by: Literal["recorded", "timestamp"] = "recorded"
    size: int | None = None
    types: Mapping[str, int] = field(default_factory=dict)
    unused_read_models: int | None = None
    snapshots: int | None = None
    dead_letters: int | None = None

    @property
    def is_any(self) -> bool:
        """Whether there is any policy."""
        ages = (self.events, self.unused_read_models, self.snapshots, self.dead_letters)
        return bool(self.types) or any(each is not None for each in (*ages, self.size))


@dataclass(frozen=True)
class BackupConfig:
    """Where backups go (a path is relative to evtool.toml), how many are kept (None: all), and for how long an
    object store that does not answer is asked again.
    """

    to: str | None = None
    keep: int | None = None
    patience_ms: int = 60_000


@dataclass(frozen=True)
class ArchiveConfig:
    """Where cold segments are moved (a path is relative to evtool.toml), and which: those whose events are all
    `older_than` so many seconds, by the clock of RetainConfig, and the oldest beyond `keep_local` bytes; with
    neither, all.

    Readers keep `cache_bytes` of what they fetched. A store that does not answer is asked again for `patience_ms`.
    A nightly run reads the archived segments where `nightly` is "full"; else it looks whether they are there.
    """

    to: str | None = None
    older_than: int | None = None
    by: Literal["recorded", "timestamp"] = "recorded"
    keep_local: int | None = None
    cache_bytes: int = GIB
    patience_ms: int = 60_000
    nightly: Literal["sizes", "full"] = "sizes"


@dataclass(frozen=True)
class Config:
    """All of it. `file` is the evtool.toml that was read, `log_flag` what a flag said of the log.

    Of a log that is the archive at `log_url`, `log_path` is the folder through which it is read.
    """

    log_path: Path = Path(DEFAULT_LOG)
    log: LogConfig = field(default_factory=LogConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    schemas: SchemasConfig = field(default_factory=SchemasConfig)
    projections: ProjectionsConfig = field(default_factory=ProjectionsConfig)
    snapshots: SnapshotsConfig = field(default_factory=SnapshotsConfig)
    nightly: NightlyConfig = field(default_factory=NightlyConfig)
    retain: RetainConfig = field(default_factory=RetainConfig)
    backup: BackupConfig = field(default_factory=BackupConfig)
    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    file: Path | None = None
    log_flag: Path | None = None
    log_url: str | None = None

    @property
    def log_name(self) -> str:
        """The log, as it was named: its folder or its URL."""
        return self.log_url or str(self.log_path)

    @property
    def new_log_path(self) -> Path:
        """The folder to make the log in. Raises LogReadOnlyError where it is an archive."""
        if self.log_url is not None:
            raise LogReadOnlyError(f"{self.log_url} is an archive, to be read only", "Name a folder for the log.")
        return self.log_path

    @property
    def definitions_path(self) -> Path:
        """The folder of one's own definitions, which need not be there."""
        return (self.file.parent if self.file else Path()) / self.projections.folder

    @property
    def read_models_path(self) -> Path:
        """The folder of read models and their states."""
        chosen = self.projections.read_models
        if chosen is None:
            return self.log_path / DEFAULT_READ_MODELS
        return (self.file.parent if self.file else Path()) / chosen


def load(log_path: Path | None = None, working_folder: Path | None = None) -> Config:
    """The configuration that holds here; a `log_path` from a flag goes before all else.

    Raises ConfigError, naming the file and the key.
    """
    config = Config()
    try:
        path = find_file(working_folder or Path.cwd())
    except FileNotFoundError as error:
        raise ConfigError("the working folder is not there any more", "Change to another one.") from error
    if path is not None:
        config = read_file(path)
    environment = os.environ.get("EVTOOL_LOG")
    chosen = log_path or (Path(environment) if environment else None)
    config = replace(config, log_flag=log_path)
    config = replace(config, **_log_at(chosen)) if chosen else config
    _keep_apart(config)
    return config


def _keep_apart(config: Config) -> None:
    """Raise ConfigError where read models would lie among the files of the log itself."""
    log, read_models = (Path(os.path.realpath(path)) for path in (config.log_path, config.read_models_path))
    if read_models.is_relative_to(log) and not read_models.is_relative_to(log / DEFAULT_READ_MODELS):
        chosen = config.projections.read_models
        raise ConfigError(
            f"{config.file}: projections.read_models: {chosen!r} is among the files of the log",
            f"Without it they are in {DEFAULT_READ_MODELS} of the log's folder; or name a folder beside the log.",
        )


def _log_at(path: Path | str, base: Path = Path()) -> dict[str, Any]:
    """Where a log is that is named so, as keys of Config."""
    url = url_of(path)
    return {"log_path": base / path if url is None else mirror_folder(url), "log_url": url}


def find_file(folder: Path) -> Path | None:
    """The nearest evtool.toml in `folder` or above it."""
    for candidate in (folder, *folder.parents):
        path = candidate / FILE_NAME
        if path.is_file():
            return path
    return None


def read_file(path: Path) -> Config:
    """Read one evtool.toml. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", "Correct that line.") from error
    except (OSError, ValueError) as error:  # no UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} nests deeper than can be read", "Its tables nest three deep at most."
        ) from error
    sections = ("log", "ingest", "schemas", "projections", "snapshots", "nightly", "retain", "backup", "archive")
    _refuse_unknown(path, "", table, sections)
    log_table, ingest_table = _subtable(path, table, "log"), _subtable(path, table, "ingest")
    log_path = log_table.pop("path", DEFAULT_LOG)
    if not isinstance(log_path, str) or not log_path or "\0" in log_path:
        raise _wrong(path, "log.path", log_path, "the folder of the log")
    return Config(
        **_log_at(log_path, path.parent),
        log=LogConfig(**_values(path, "log", log_table, LogConfig)),
        ingest=IngestConfig(**_values(path, "ingest", ingest_table, IngestConfig)),
        schemas=SchemasConfig(**_values(path, "schemas", _subtable(path, table, "schemas"), SchemasConfig)),
        projections=ProjectionsConfig(
            **_values(path, "projections", _subtable(path, table, "projections"), ProjectionsConfig)
        ),
        snapshots=SnapshotsConfig(
            **_values(path, "snapshots", _subtable(path, table, "snapshots"), SnapshotsConfig)
        ),
        nightly=NightlyConfig(**_values(path, "nightly", _subtable(path, table, "nightly"), NightlyConfig)),
        retain=RetainConfig(**_values(path, "retain", _subtable(path, table, "retain"), RetainConfig)),
        backup=BackupConfig(**_values(path, "backup", _subtable(path, table, "backup"), BackupConfig)),
        archive=ArchiveConfig(**_values(path, "archive", _subtable(path, table, "archive"), ArchiveConfig)),
        file=path,
    )


def parse_codec(text: str) -> Codec:
    """A codec from "zstd", "zstd:3", "lz4" or "none". Raises ValueError."""
    match = re.fullmatch(r"(zstd)(?::(-?\d+))?|lz4|none", str(text).lower())
    if match is None or not -7 <= int(match[2] or 1) <= 22:
        raise ValueError(f'{text!r} is no codec: write "zstd", "zstd:LEVEL" (-7 to 22), "lz4" or "none"')
    if match[1]:
        return Codec("zstd", int(match[2] or 1))
    return Codec("lz4" if match[0] == "lz4" else "none", 0)


def _within(low: int, high: int, parse: Callable[[Any], int] = int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or (parse is int and not isinstance(value, int)):
            raise ValueError("a whole number is wanted")
        number = parse(value)
        if not low <= number <= high:
            raise ValueError(f"{value!r} is not between {low:,} and {high:,}")
        return number

    return check


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, choices))}")
        return str(value)

    return check


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValueError(f"{value!r} is no list of texts")
    return tuple(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a table is wanted: write its name in brackets, and its keys below")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise ValueError(f'{value!r} is no list of names: write ["daily-active-users"]')
    return tuple(dict.fromkeys(value))


def _ages(value: Any) -> dict[str, int]:
    ages = {}
    for name, age in _table(value).items():
        try:
            ages[name] = parse_age_seconds(age)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return ages


def _zone(value: Any) -> str:
    try:
        ZoneInfo(_text(value))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"{value!r} is no time zone that is known here: write one such as 'Europe/Berlin'"
        ) from error
    return str(value)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share: write a number from 0 to 1, as 0.01 for one line in a hundred")
    return float(value)


# key -> its check; the flags of the command line go through the same ones.
CHECKS: dict[str, Callable[[Any], Any]] = {
    "partitions": _within(1, 1024),
    "segment_bytes": _within(64 * KIB, 64 * GIB, parse_size),
    "fsync": _one_of("batch", "never"),
    "codec": parse_codec,
    "materialise": _texts,
    "source": _text,
    "batch_events": _within(1, 4_000_000),
    "batch_bytes": _within(1, GIB, parse_size),
    "max_latency_ms": _within(1, 3_600_000, parse_duration_ms),
    "unknown_fields": _one_of("metadata", "reject"),
    "dead_letter_alert": _share,
    "compatibility": _one_of(*get_args(Compatibility)),
    "unknown_types": _one_of("allow", "reject"),
    "format": _one_of("evtool", "json", "cloudevents", "csv", "parquet"),
    "derive_id": _one_of("content"),
    "timezone": _zone,
    "records": _text,
    "fields": _table,
    "folder": _text,
    "read_models": _text,
    "parameters": _table,
    "keep_daily": _within(1, 36_500),
    "keep_weekly": _within(0, 5_200),
    "projections": _names,
    "keep_reports": _within(1, 36_500),
    "events": parse_age_seconds,
    "by": _one_of("recorded", "timestamp"),
    "size": _within(1, 1 << 62, parse_size),
    "types": _ages,
    "unused_read_models": parse_age_seconds,
    "snapshots": parse_age_seconds,
    "dead_letters": parse_age_seconds,
    "to": _text,
    "keep": _within(1, 1_000_000),
    "patience_ms": _within(0, 3_600_000, parse_duration_ms),
    "older_than": parse_age_seconds,
    "keep_local": _within(0, 1 << 62, parse_size),
    "cache_bytes": _within(0, 1 << 62, parse_size),
    "nightly": _one_of("sizes", "full"),
}


def with_flags(config: Section, **flags: Any) -> Section:
    """`config` with each flag that was given (is not None), checked as the same key of the file is."""
    changes = {}
    for name, value in flags.items():
        if value is None:
            continue
        try:
            changes[name] = CHECKS[name](value)
        except ValueError as error:
            flag = "--" + name.removesuffix("_ms").replace("_", "-")
            raise ConfigError(f"{flag}: {error}") from error
    return replace(config, **changes)


def _values(path: Path, section: str, table: Mapping[str, Any], kind: type) -> dict[str, Any]:
    known = [item.name for item in fields(kind)]
    _refuse_unknown(path, section, table, [*known, "path"] if section == "log" else known)
    values = {}
    for key, value in table.items():
        try:
            values[key] = CHECKS[key](value)
        except ValueError as error:
            raise ConfigError(f"{path}: {section}.{key}: {error}") from error
    return values


def _subtable(path: Path, table: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise _wrong(path, name, value, f"a table: write [{name}] and its keys below")
    return dict(value)


def _refuse_unknown(path: Path, section: str, table: Mapping[str, Any], known: Any) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
            raise ConfigError(f"{path}: there is no key {(section + '.' + key).lstrip('.')!r}", hint)


def _wrong(path: Path, key: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{path}: {key} = {value!r} is not {wanted}")
