"""Values at paths in payloads and metadata that become columns of their own in cold segments, as `->>` gives them.

Which ones: those that the projections of the log's catalogue read, with the parameters of evtool.toml, and those
that are asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from evtool.config import MATERIALISE_PROJECTIONS, Config
from evtool.errors import ConfigError, EvtoolError
from evtool.projections import catalogue, parameters
from evtool.projections.extraction import extract
from evtool.projections.language.expression import JsonPath
from evtool.projections.materialised import name_of, path_of

NONE = "none"

Columns: TypeAlias = "pa.RecordBatch | pa.Table"


@dataclass(frozen=True)
class Chosen:
    """Names of columns: those that every cold segment shall have, and those for what is written anyway.

    `passed_over` are the names of projections whose definitions could not be read. With `only`, cold segments that
    have other columns lose these.
    """

    asked: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    only: bool = False

    @property
    def names(self) -> list[str]:
        """All of them."""
        return sorted({*self.asked, *self.beside})


NOTHING = Chosen()


def choose(config: Config, asked: Sequence[str] = (), rewrite: bool = False) -> Chosen:
    """What `--materialise` (`asked`) and evtool.toml say; with `rewrite` every cold segment shall have all of it.

    With `rewrite` and NONE among `asked`, cold segments keep nothing else: then columns go away.

    Raises ConfigError for what is no path.
    """
    configured = () if NONE in asked else config.log.materialise
    explicit = canonical([name for name in asked if name != NONE], "--materialise")
    beside = canonical([name for name in configured if name != MATERIALISE_PROJECTIONS], "log.materialise")
    passed_over: list[str] = []
    if MATERIALISE_PROJECTIONS in configured:
        used, passed_over = _used(config)
        beside = [*beside, *used]
    if rewrite:
        explicit = [*explicit, *beside]
    return Chosen(
        asked=tuple(sorted({*explicit})),
        beside=tuple(sorted({*beside} - {*explicit})),
        passed_over=tuple(passed_over),
        only=rewrite and NONE in asked,
    )


def canonical(names: Iterable[str], where: str) -> list[str]:
    """The names of columns as they are spelled in files. Raises ConfigError, saying `where` they stand."""
    found = []
    for text in names:
        try:
            name = name_of(path_of(text))
        except ConfigError:
            name = None
        if name is None:
            raise ConfigError(
                f"{where} {text!r} is no path into payload or metadata", 'Write it as "payload.user_id".'
            )
        found.append(name)
    return found


def _used(config: Config) -> tuple[list[str], list[str]]:
    """The names of columns for all that the catalogue's projections read, and the projections that are broken."""
    from evtool.projections import kinds  # and with it the parser of SQL

    paths: set[JsonPath] = set()
    broken = []
    for name, entry in catalogue.entries(config.definitions_path).items():
        try:
            definition = entry.read()
            configured = parameters.configured(definition, config.projections.parameters)
            paths.update(kinds.compile(definition, parameters.values(definition, configured)).paths)
        except EvtoolError:
            broken.append(name)
    names = [name_of(path) for path in paths]
    return sorted(name for name in names if name is not None), broken


def roots_of(names: Iterable[str]) -> set[str]:
    """The stored columns that such columns are made of."""
    return {path_of(name).root for name in names}


def deriving(names: Sequence[str]) -> Callable[[Columns], list[pa.Array]]:
    """What makes such columns of stored ones, in the order of the names."""
    paths = [path_of(name) for name in names]

    def derive(events: Columns) -> list[pa.Array]:
        columns: dict[JsonPath, pa.Array] = {}
        for root in dict.fromkeys(path.root for path in paths):
            of_root = [path for path in paths if path.root == root]
            found = extract(events[root], [path.steps for path in of_root])
            columns |= {path: values.to_arrow() for path, values in zip(of_root, found, strict=True)}
        return [columns[path].cast(pa.string()) for path in paths]

    return derive
