"""Projections in a test: run by name with some values of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

import evtool
from evtool.config import Config, ProjectionsConfig
from evtool.projections import projection as projections
from evtool.projections.projection import Projection


def configuration(log: evtool.Log, own: Path | None = None, **parameters: Any) -> Config:
    """A configuration for the log, with a folder of own definitions and values of parameters."""
    return Config(
        log_path=log.folder, projections=ProjectionsConfig(folder=str(own or "none"), parameters=parameters)
    )


def open_projection(log: evtool.Log, reference: str, own: Path | None = None, **settings: str) -> Projection:
    """A projection as `evtool project` opens it."""
    return projections.open(log, reference, configuration(log, own), settings)


def project(log: evtool.Log, reference: str, own: Path | None = None, **settings: str) -> pl.DataFrame:
    """The read model of a projection, refreshed."""
    return open_projection(log, reference, own, **settings).runner.refresh().frame
