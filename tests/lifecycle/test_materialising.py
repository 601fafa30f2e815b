"""Which paths get columns in cold segments: what projections read, what is asked for, and how they are spelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from compacting import TARGET_BYTES, compacted, estimated, small_pieces
from hypothesis import given
from hypothesis import strategies as st
from projecting import write
from samples import check_sound, event, make_segments, segments

import evtool
from evtool import jsontext
from evtool.config import Config, LogConfig, ProjectionsConfig
from evtool.errors import ConfigError
from evtool.lifecycle.compact import Report, compact
from evtool.lifecycle.materialising import NOTHING, Chosen, choose
from evtool.projections.language.expression import JsonPath
from evtool.projections.materialised import name_of, path_of, paths_of

BUILT_IN = (
    "metadata.cohort_id",
    "metadata.experiment_id",
    "payload.amount",
    "payload.product_id",
    "payload.user_id",
)
OWN = '[keys]\nk = "payload.items[0].x"\n[measures]\nn = "count(*)"'


def configured(folder: Path, *materialise: str, **parameters: str) -> Config:
    return Config(
        log=LogConfig(materialise=materialise or ("projections",)),
        projections=ProjectionsConfig(folder=str(folder), parameters=parameters),
    )


def test_what_projections_read_with_the_parameters_of_evtool_toml(tmp_path: Path):
    assert choose(configured(tmp_path)) == Chosen(beside=BUILT_IN)
    write(tmp_path, OWN, "mine")
    found = choose(configured(tmp_path, user="payload.customer.id"))
    users = {"payload.customer.id", 'payload["items"][0].x', "payload.items[0].x"}.intersection(found.beside)
    assert users == {"payload.customer.id", "payload.items[0].x"}
    assert "payload.user_id" not in found.beside


def test_a_broken_definition_does_not_keep_the_others_from_columns(tmp_path: Path):
    write(tmp_path, "[measures]\nn = 'count('", "broken")
    assert choose(configured(tmp_path)) == Chosen(beside=BUILT_IN, passed_over=("broken",))


def test_what_is_asked_for_and_what_is_configured(tmp_path: Path):
    asked = choose(configured(tmp_path), ["payload.z", 'payload["a"]', "payload.user_id"])
    assert asked.asked == ("payload.a", "payload.user_id", "payload.z")
    assert asked.names == sorted({*BUILT_IN, "payload.a", "payload.z"})
    assert choose(configured(tmp_path), ["none"]) == NOTHING
    assert choose(configured(tmp_path), ["none", "payload.z"]) == Chosen(("payload.z",))
    assert choose(configured(tmp_path), rewrite=True) == Chosen(BUILT_IN)
    only = configured(tmp_path, "payload.b", "payload.c.d")
    assert choose(only) == Chosen(beside=("payload.b", "payload.c.d"))
    assert choose(replace(only, log=LogConfig(materialise=()))) == NOTHING
    with pytest.raises(ConfigError, match="'user' is no path"):
        choose(configured(tmp_path, "user"))


def done(folder: Path, columns: Chosen) -> Report:
    with small_pieces(), evtool.open(folder) as log:
        return compact(log, TARGET_BYTES, columns)


def test_cold_segments_without_columns_are_named_and_written_again_where_asked(folder: Path):
    make_segments(folder, [[event(1), event(2)]], [[event(3)]])
    compacted(folder)
    report = done(folder, Chosen(beside=("payload.number",)))
    assert (report.compacted, report.materialised) == ([], ["payload.number"])
    assert [(lack.folder, lack.names) for lack in report.lacking] == [
        (str(segments(folder)[0]), ["payload.number"])
    ]
    with evtool.open(folder) as log:
        assert [lack.names for lack in estimated(folder).lacking] == []
        assert log.snapshot().segments[0].materialised == frozenset()
    report = done(folder, Chosen(("payload.number",)))
    assert (len(report.compacted), report.lacking) == (1, [])
    assert pq.read_table(segments(folder)[0] / "events-2.parquet")["payload.number"].to_pylist() == ["1", "2"]
    assert done(folder, Chosen(("payload.number",))).compacted == []


@given(
    root=st.sampled_from(["payload", "metadata"]),
    first=st.text(max_size=5),
    more=st.lists(st.integers(0, 999_999_999) | st.text(max_size=5), max_size=3),
)
def test_a_path_has_one_name_and_the_name_one_path(root: str, first: str, more: list[str | int]):
    path = JsonPath(root, (first, *more))
    name = name_of(path)
    assert name is not None
    assert path_of(name) == path
    assert paths_of(frozenset({name})) == {path: name}


def test_names_of_all_sorts(folder: Path):
    keys = ["a.b", 'q"\\', "é 漢字", "\x00", "", "[0]", " "]
    payload = "{" + ",".join(f"{jsontext.quote(key)}:{at}" for at, key in enumerate(keys)) + "}"
    make_segments(folder, [[event(at, payload=payload) for at in range(3)]], [[event(9)]])
    names = [name_of(JsonPath("payload", (key,))) or "" for key in keys]
    compacted(folder, TARGET_BYTES, *names)
    segment = evtool.open(folder).snapshot().segments[0]
    assert segment.materialised == set(names)
    found = segment.together(segment.event_rows(), names, {})
    assert [found[name].to_pylist() for name in names] == [[str(at)] * 3 for at in range(len(keys))]
    check_sound(folder)
