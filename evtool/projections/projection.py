"""A projection of a log, by its name, its file or its object: what `evtool project` runs.

projection = open(log, "daily-active-users", config, {"grain": "month"})
projection.runner.refresh().frame
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evtool.config import Config
from evtool.errors import ConfigError
from evtool.log.log import Log
from evtool.projections import catalogue, parameters
from evtool.projections.definition import Definition, Identity
from evtool.projections.places import Places, promoted
from evtool.projections.runner import Runner

if TYPE_CHECKING:
    from evtool.projections.plan import Plan


class Projection:
    """What is to be run, and where its read model is. `definition` is None for one in Python."""

    def __init__(
        self, log: Log, identity: Identity, places: Places, definition: Definition | None, command: str = ""
    ) -> None:
        self.log = log
        self.identity = identity
        self.places = places
        self.definition = definition
        self.runner = Runner(log, identity, lambda: self.plan, places, command)

    @property
    def serving(self) -> Runner:
        """The runner of the version that serves: the promoted one, or the highest that there is."""
        if self.places.parameters_hash is not None:
            return self.runner
        version = promoted(self.places.root, self.places.name)
        if version is None or version == self.identity.version:
            return self.runner
        identity = replace(self.identity, version=version, definition_hash="")
        return Runner(self.log, identity, lambda: self.plan, replace(self.places, version=version))

    def aside(self, root: Path) -> Projection:
        """The same with its read model and state below another folder than that of all read models."""
        places = replace(self.places, root=root)
        projection = Projection(self.log, self.identity, places, self.definition)
        if self.definition is None:  # of one in Python the plan is all there is
            projection.plan = self.plan
        return projection

    @functools.cached_property
    def plan(self) -> Plan:
        """The compiled definition. Raises ProjectionError."""
        from evtool.projections import (
            kinds,
        )  # and with it the parser of SQL, which an answer that is there needs not

        assert self.definition is not None
        return kinds.compile(self.definition, self.identity.parameters)


def open(log: Log, reference: str, config: Config, changes: Mapping[str, str] | None = None) -> Projection:
    """A projection of a log. `changes` are texts, as of `--set`. Raises ProjectionError, ConfigError."""
    if catalogue.is_object(reference):
        return _of_object(log, reference, config, changes or {})
    definition = catalogue.find(reference, config.definitions_path)
    identity, places = placed(definition, config, changes or {})
    if catalogue.is_path(reference):
        identity = replace(identity, reference=str(Path(reference).absolute()))
    return Projection(log, identity, places, definition, command(config, reference, changes or {}))


def placed(definition: Definition, config: Config, changes: Mapping[str, str]) -> tuple[Identity, Places]:
    """A definition with the values of its parameters, and where what is made of it is. Raises ConfigError."""
    configured = parameters.values(definition, parameters.configured(definition, config.projections.parameters))
    identity = definition.identity(configured | parameters.given(definition, changes))
    values_hash = None if identity.parameters == configured else identity.parameters_hash
    return identity, Places(config.read_models_path, identity.name, identity.version, values_hash)


def command(config: Config, reference: str, changes: Mapping[str, str], *flags: str) -> str:
    """The command that refreshes a read model, as a shell takes it."""
    given = [word for name, text in changes.items() for word in ("--set", f"{name}={text}")]
    return shlex.join(["evtool", "project", reference, *given, *flags, *of_log(config)])


def of_log(config: Config) -> list[str]:
    """The words that name the log in a command, where a flag has named it in this one."""
    return [] if config.log_flag is None else ["--log", config.log_url or str(config.log_flag)]


def _of_object(log: Log, reference: str, config: Config, changes: Mapping[str, str]) -> Projection:
    from evtool.projections import custom

    if changes:
        raise ConfigError(f"{reference} has no parameters", "A projection in Python has its values inside.")
    plan = custom.plan(reference)
    places = Places(config.read_models_path, plan.identity.name, plan.identity.version)
    projection = Projection(log, plan.identity, places, None, command(config, reference, {}))
    projection.plan = plan
    return projection
