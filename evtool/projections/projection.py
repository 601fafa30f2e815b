"""A projection of a log, by its name, its file or its object: what `evtool project` runs.

projection = open(log, "daily-active-users", config, {"grain": "month"})
projection.refresh().frame
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evtool.config import Config
from evtool.errors import ConfigError
from evtool.log.log import Log
from evtool.projections import catalogue, custom, kinds, parameters
from evtool.projections.definition import Definition
from evtool.projections.places import Places
from evtool.projections.plan import Plan
from evtool.projections.runner import Runner


@dataclass(frozen=True)
class Projection:
    """What is to be run: the plan, where its read model is, and its definition, unless that is in Python."""

    plan: Plan
    places: Places
    runner: Runner
    definition: Definition | None


def open(log: Log, reference: str, config: Config, changes: Mapping[str, str] | None = None) -> Projection:
    """A projection of a log. Raises ProjectionError, ConfigError."""
    definition = None
    if custom.is_object(reference):
        if changes:
            raise ConfigError(f"{reference} has no parameters", "A projection in Python has its values inside.")
        plan, values_hash, is_configured = custom.plan(reference), "", True
    else:
        definition = catalogue.find(reference, config.definitions_path)
        plan, values_hash, is_configured = _compiled(definition, config, changes or {})
    places = Places(config.read_models_path, plan.name, plan.version, None if is_configured else values_hash)
    return Projection(plan, places, Runner(log, plan, places, values_hash), definition)


def _compiled(definition: Definition, config: Config, changes: Mapping[str, str]) -> tuple[Plan, str, bool]:
    configured = parameters.values(definition, parameters.configured(definition, config.projections.parameters))
    chosen: dict[str, Any] = configured | parameters.given(definition, changes)
    return kinds.compile(definition, chosen), parameters.values_hash(chosen), chosen == configured
