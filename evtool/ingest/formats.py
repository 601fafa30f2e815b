"""Which parser reads an input: decided here alone, by the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from zoneinfo import ZoneInfo

from evtool.config import IngestConfig
from evtool.errors import ConfigError, InputError
from evtool.ingest import arrays, cloudevents, mapping
from evtool.ingest.mapped import MappedParser
from evtool.ingest.mapping import Rules, Shape
from evtool.ingest.parse import Parser
from evtool.ingest.sources import STDIN, Converter


def parser(config: IngestConfig) -> Parser:
    """The parser of a configuration's format. Raises ConfigError for a mapping that makes no sense."""
    rules = Rules(
        config.source,
        config.unknown_fields == "metadata",
        config.derive_id == "content",
        ZoneInfo(config.timezone) if config.timezone else None,
    )
    name = format_of(config)
    if name == "evtool":
        return Parser(rules.default_source, rules.fold_unknown, rules.derives_ids, rules.zone)
    return MappedParser(_shape(name, config), rules)


def format_of(config: IngestConfig) -> str:
    """The format: the one that is named, or `json` where fields are mapped, or evtool's own."""
    return config.format or ("json" if config.fields else "evtool")


def converter(config: IngestConfig) -> Converter | None:
    """What makes lines of an input that may have none; None for evtool's own."""
    name = format_of(config)
    if name in ("json", "cloudevents"):
        return lambda path, name, blocks: arrays.array_lines(blocks, name, config.records)
    if config.records is not None:
        raise ConfigError(f"ingest.records is for JSON, and the format is {name}")
    return {"csv": _csv, "parquet": _parquet}.get(name)


def _shape(name: str, config: IngestConfig) -> Shape:
    if name == "cloudevents":
        return cloudevents.shape_of(config.fields)
    shape = mapping.shape_of(config.fields, flat=name == "csv")
    if name == "json":
        return shape
    # Of a table the payload is all that has no other place, unless it is said to be elsewhere.
    return replace(shape, rest=shape.rest if "payload" in config.fields else "payload", cells=True)


def _csv(path: str, name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    from evtool.ingest import tables

    return tables.csv_lines(blocks, name)


def _parquet(path: str, name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    from evtool.ingest import tables

    if path == STDIN:
        raise InputError("Parquet cannot be read from a pipe", "Its index stands at the end: name a file.")
    return tables.parquet_lines(path)
