"""Which parser reads an input: decided here alone, by the configuration."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from evtool.config import IngestConfig
from evtool.ingest import cloudevents, mapping
from evtool.ingest.mapped import MappedParser
from evtool.ingest.mapping import Rules, Shape
from evtool.ingest.parse import Parser


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


def _shape(name: str, config: IngestConfig) -> Shape:
    return cloudevents.shape_of(config.fields) if name == "cloudevents" else mapping.shape_of(config.fields)
