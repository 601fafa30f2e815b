"""What went wrong once at the edges of projections: times, sums, versions, what lies beside a read model."""

from __future__ import annotations

from pathlib import Path

import pytest
from projecting import make, open_projection, project, purchase
from samples import MOMENT_NS, event

import evtool
from evtool.errors import ConfigError, DerivedDamagedError, ProjectionError
from evtool.files import Files
from evtool.projections import catalogue, explain, parameters, places
from evtool.projections.source import Source


def definition(folder: Path, name: str, rest: str, version: int = 1) -> str:
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\nversion = {version}\n{rest}')
    return str(path)


def test_an_event_without_the_time_of_the_grain_is_a_row_of_its_own(folder: Path, tmp_path: Path):
    hours = definition(
        tmp_path,
        "hours",
        '[time]\ncolumn = "cast(payload.at as timestamp)"\ngrain = "hour"\n[measures]\nn = "count(*)"\n',
    )
    with evtool.open(folder, create=True) as log:
        log.append([event(1, payload='{"at":"2026-01-01T00:30:00Z"}'), event(2)])
        found = project(log, hours)
    assert [row[1] for row in found.rows()] == [1, 1]
    assert found["hour"].null_count() == 1


def test_an_hour_that_begins_before_all_times_keeps_nobody_from_counting(folder: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1, timestamp=-(2**63) + 1), event(2, timestamp=MOMENT_NS)])
        assert project(log, "event-counts", grain="hour")["events"].sum() == 2


@pytest.mark.parametrize("keys", ["", '[keys]\nt = "event_type"\n'])
@pytest.mark.parametrize("refreshes", [1, 3])
def test_a_sum_that_outgrows_all_decimals_is_told_and_no_other_number(
    folder: Path, tmp_path: Path, keys: str, refreshes: int
):
    rest = f'{keys}[measures]\ntotal = "sum(cast(payload.q as decimal(38,0)))"\n'
    reference = definition(tmp_path, "total", rest)
    fits = [6 * 10**37, 4 * 10**37 - 1, -9 * 10**37]
    too_many = [6 * 10**37, 6 * 10**37, 9 * 10**37]
    for name, amounts in {"fits": fits, "not": too_many}.items():
        with evtool.open(folder / name, create=True) as log:
            for number, amount in enumerate(amounts):
                log.append([event(number, payload=f'{{"q":{amount}}}')])
                if refreshes > 1 and (name == "fits" or number == 0):
                    project(log, reference)
            if name == "fits":
                assert project(log, reference)["total"].to_list() == [sum(fits)]
            else:
                with pytest.raises(ProjectionError, match="38 digits"):
                    project(log, reference)


@pytest.mark.parametrize(
    "settings", [{"timezone": "Mars/Phobos", "grain": "day"}, {"within": "5"}, {"steps": "A"}]
)
def test_a_setting_that_is_wrong_is_told_by_its_name(folder: Path, settings: dict[str, str]):
    make(folder, [[purchase(1)]])
    with evtool.open(folder, read_only=True) as log, pytest.raises(ProjectionError) as caught:
        open_projection(log, "funnel-conversion", **settings).runner.refresh()
    name = next(iter(settings))
    assert caught.value.message.startswith(f"funnel-conversion: {name} = ")


def test_the_promoted_version_answers_when_it_may_be_stale(folder: Path, tmp_path: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1), event(2)])
        first = definition(tmp_path, "two", '[measures]\nn = "count(*)"\n')
        assert project(log, first)["n"].to_list() == [2]
        second = definition(tmp_path, "two", '[measures]\nmany = "count(*)"\n', version=2)
        found = open_projection(log, second)
        assert found.serving.stale().frame.columns == ["n"], "a version without a read model does not serve"
        found.runner.refresh()
        root = found.places.root
        places.promote(Files(), root, "two", 1)
        assert found.serving.stale().frame.columns == ["n"]
        places.promote(Files(), root, "two", 2)
        assert found.serving.stale().frame.columns == ["many"]


def test_what_is_stale_is_of_this_log_and_definition(folder: Path, tmp_path: Path):
    with evtool.open(folder, create=True) as log, evtool.open(tmp_path / "other", create=True) as other:
        log.append([event(1), event(2)])
        project(log, definition(tmp_path, "one", '[measures]\nn = "count(*)"\n'))
        changed = definition(tmp_path, "one", '[measures]\nm = "count(*)"\n')
        with pytest.raises(ProjectionError, match="another definition"):
            open_projection(log, changed).runner.stale()
        project(log, "event-counts")
        (folder / "read-models").rename(tmp_path / "other" / "read-models")
        with pytest.raises(ProjectionError, match="another log"):
            open_projection(other, "event-counts").runner.stale()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"output":{"path":"event-counts.parquet"}}', "{}"])
def test_a_damaged_lineage_is_made_anew(folder: Path, text: str):
    with evtool.open(folder, create=True) as log:
        log.append([event(1)])
        found = open_projection(log, "event-counts")
        expected = found.runner.refresh().frame
        (found.places.folder / "event-counts.lineage.json").write_text(text)
        with pytest.raises(DerivedDamagedError):
            found.runner.stale()
        assert found.runner.refresh().frame.equals(expected)
        assert found.runner.stale().frame.equals(expected)


def test_a_row_that_is_not_there_has_no_events_and_says_so(folder: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1)])
        plan = open_projection(log, "event-counts").plan
        source = Source(log.snapshot(), log.partitions, log.schemas.current())
        with pytest.raises(ConfigError, match="no row with event_type=Nothing"):
            list(explain.events(plan, source, {"event_type": "Nothing"}))


def test_a_setting_that_is_no_utf_8():
    with pytest.raises(ConfigError, match="UTF-8"):
        parameters.settings(["where=\udcff"])


def test_an_expression_of_the_command_line_is_not_looked_for_in_the_file(folder: Path):
    make(folder, [[purchase(1)]])
    with evtool.open(folder, read_only=True) as log:
        with pytest.raises(ProjectionError) as caught:
            open_projection(log, "revenue-by-product", product="payload.x +").runner.refresh()
        assert caught.value.message.startswith("revenue-by-product: product = 'payload.x +', line 1, column ")
        assert ".toml" not in caught.value.message


def test_a_definition_without_end():
    with pytest.raises(ProjectionError, match="larger than"):
        catalogue.Entry("zero", "file", Path("/dev/zero")).read()
