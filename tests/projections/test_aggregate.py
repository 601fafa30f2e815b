"""Aggregates of a definition: what is refused and where it stands, and what a cast that fails does."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from projecting import make, open_projection, project, purchase, write

import evtool
from evtool.errors import ConfigError, EvtoolError, ProjectionError
from evtool.projections import catalogue, definition, kinds, parameters
from evtool.projections.plan import Plan

HEAD = 'name = "mine"\nversion = 1\n'
MEASURES = '\n[measures]\nn = "count(*)"\n'
FUNNEL = '\n[funnel]\nby = "stream_id"\nsteps = ["A", "B"]\nwithin = "1d"\n'
RETENTION = '\n[time]\ngrain = "day"\n[retention]\nby = "stream_id"\nstart = "true"\nreturn = "true"\n'
SESSIONS = '\n[sessions]\nby = "stream_id"\ngap = "30m"\n'
SCORE = "\n[score.weights]\n\"event_type = 'A'\" = 1\n"


def compiled(text: str) -> Plan:
    found = definition.parse((HEAD + text).encode(), "mine.toml")
    return kinds.compile(found, parameters.values(found))


def refused(text: str) -> ProjectionError:
    """The error of a definition that makes no sense: with a place, and a sentence."""
    with pytest.raises(ProjectionError) as caught:
        compiled(text)
    assert caught.value.exit_code == 19
    assert caught.value.message.startswith("mine.toml:")
    return caught.value


def key(name: str, expression: str = "event_type") -> str:
    return f'[keys]\n{name} = "{expression}"'


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (MEASURES, ["bucket", "slot_0", "slot_12", "argument_0"]),
        ('\n[measures]\nn = "first(event_type)"\n', ["timestamp", "position"]),
        ('\n[measures]\nk = "count(distinct event_type)"\n', ["value", "n", "sketch"]),
        (
            FUNNEL,
            [
                *("bucket", "actor", "timestamp", "position", "step", "step_1", "step_64"),
                *("name", "actors", "conversion", "conversion_total"),
            ],
        ),
        (
            RETENTION,
            ["bucket", "actor", "period", "start", "return", "cohort", "offset", "actors", "retention", "day"],
        ),
        (SCORE, ["bucket", "score", "slot_0"]),
    ],
)
def test_names_that_the_projection_uses_itself(kind: str, names: list[str]):
    for name in names:
        message = refused(key(name) + kind).message
        assert message.startswith("mine.toml:4:")
        assert repr(name) in message


@pytest.mark.parametrize("name", ["bucket", "slot_0", "argument_3"])
def test_names_that_a_measure_cannot_have(name: str):
    assert refused(f'[measures]\n{name} = "count(*)"').message.startswith("mine.toml:4:")


@pytest.mark.parametrize("kind", ["keys", "measures"])
def test_nothing_is_called_like_the_column_of_time(kind: str):
    extra = key("week") + MEASURES if kind == "keys" else '[measures]\nweek = "count(*)"'
    message = refused(extra + '\n[time]\ngrain = "week"').message
    assert message.startswith("mine.toml:4:")
    assert "'week' is the column of [time]" in message


def test_other_names_are_free(folder: Path, tmp_path: Path):
    """Of what a projection uses itself where it does not use it."""
    make(folder, [[purchase(1), purchase(2)]])
    names = ["timestamp", "position", "value", "n", "actor", "start", "name", "step", "offset", "select", "Bucket"]
    texts = [
        key(name, "payload.product_id") + '\n[measures]\nall_of_them = "sum(schema_version)"' for name in names
    ]
    texts += [key(name) + FUNNEL for name in ("value", "n", "events", "depth", "steps", "group", "start")]
    texts += [key(name) + RETENTION for name in ("value", "last", "seen", "position", "timestamp", "step", "week")]
    texts += [
        f'[measures]\n{name} = "count(distinct event_type)"' for name in ("value", "n", "timestamp", "actor")
    ]
    with evtool.open(folder, read_only=True) as log:
        for number, text in enumerate(texts):
            name = write(tmp_path / "own", text, f"mine-{number}")
            frame = project(log, name)
            assert len(set(frame.columns)) == len(frame.columns)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (key("amount", "cast(payload.amount as double)") + MEASURES, "4:11"),
        (key("amount", "cast(payload.amount as double)") + FUNNEL, "4:11"),
        (key("amount", "cast(payload.amount as double)") + RETENTION, "4:11"),
        ('[measures]\nn = "count(distinct cast(payload.amount as double))"', "4:6"),
        ('[measures]\nn = "top_k(cast(payload.amount as double), 3)"', "4:6"),
        ('[measures]\nn = "1 + approx_count_distinct(cast(payload.amount as double))"', "4:6"),
        ('[measures]\nn = "sum(cast(payload.amount as double))"', "4:"),
    ],
)
def test_floats_are_refused_with_the_cast_to_write(text: str, column: str):
    error = refused(text)
    assert error.message.startswith(f"mine.toml:{column}")
    assert 'cast(payload."amount" as decimal' in (error.message + error.hint).replace(
        "payload.a", 'payload."a'
    ).replace("amount as", 'amount" as').replace('""', '"')


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (f'where = "event_typ = 1"{MEASURES}', "3:10", "event_typ"),
        (f'where = "position"{MEASURES}', "3:", "boolean is wanted"),
        ('[measures]\nn = "\n  count(*)\n  + sum(stream_id)"', "", ""),
        ('[measures]\nn = """\n  count(*)\n  + sum(stream_id)"""', "6:", "stream_id"),
        ('[measures]\nn = "cuont(*)"', "4:6", "cuont"),
        ('[measures]\nn = "event_type"', "4:6", ""),
        ('[measures]\nn = "count(*) +"', "4:", ""),
        ('[measures]\nn = "count(:who)"', "4:", "who"),
        (f'[time]\ngrain = "day"\ntimezone = "Europe/Berln"{MEASURES}', "5:13", "Europe/Berln"),
        (f'[time]\ngrain = "year"{MEASURES}', "4:10", "'year' is none of"),
        (f'[time]\ngrain = ":grian"{MEASURES}', "4:10", "there is no value :grian"),
        (FUNNEL.replace('["A", "B"]', '["A"]'), "6:", "2 to 64 steps, not 1"),
        (FUNNEL.replace('["A", "B"]', '["A", "A"]'), "6:", "two steps are called 'A'"),
        (FUNNEL.replace('["A", "B"]', "[]"), "6:", "not 0"),
        (FUNNEL.replace('["A", "B"]', '["A", ""]'), "6:", "steps are a list of texts"),
        (FUNNEL.replace('["A", "B"]', '["A", "x: stream_id"]'), "6:", "boolean is wanted"),
        (FUNNEL.replace('"1d"', '"soon"'), "7:", "'soon' is no span of time"),
        (FUNNEL.replace('"1d"', '"0s"'), "7:", "no span of time"),
        (FUNNEL.replace('"stream_id"', '"position"'), "5:", "text is wanted"),
        (FUNNEL + 'mode = "strictly"', "8:", "'strictly' is none of default"),
        (RETENTION.replace('"day"', '"hour"'), "5:", "days, weeks or months"),
        (RETENTION + "periods = 0", "10:", "between 1 and 1,000"),
        (SESSIONS.replace('"30m"', '"-1m"'), "6:", "no span of time"),
        (key("a") + SESSIONS, "3:", "[sessions] has no keys"),
        (SCORE.replace("= 1", "= 1.5"), "5:", "float"),
        (SCORE.replace("= 1", '= "much"'), "5:", "no number"),
        (SCORE.replace("= 1", "= true"), "5:", "no number"),
        (SCORE.replace("= 1", '= "1e99999999"'), "5:", ""),
        ("[score.weights]", "3:", "no weight"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(text: str, place: str, says: str):
    if not place:  # TOML itself
        with pytest.raises(ProjectionError, match="not TOML"):
            definition.parse((HEAD + text).encode(), "mine.toml")
        return
    error = refused(text)
    assert error.message.startswith(f"mine.toml:{place}")
    assert says in error.message


@pytest.mark.parametrize(
    "nested",
    [
        "x = " + "[" * 100_000,
        "x = " + "[" * 50_000 + "]" * 50_000,
        "x = " + "{a=" * 30_000,
        "[" + "a." * 50_000 + "b]",
        'where = "' + "(" * 100_000 + '"' + MEASURES,
        'where = "' + "not " * 25_000 + 'true"' + MEASURES,
        'where = "' + "true and " * 12_000 + 'true"' + MEASURES,
        'where = "' + "-" * 100_000 + '1 = 1"' + MEASURES,
    ],
    ids=range(8),
)
def test_a_hundred_kilobytes_of_nesting_is_a_sentence(nested: str):
    with pytest.raises(ProjectionError):
        compiled(nested)


def test_definitions_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff\xfe'")
    (tmp_path / "empty.toml").touch()
    (tmp_path / "mine.toml").write_text('name = "other"\nversion = 1' + MEASURES)
    for name in ("folder.toml", "bytes.toml", "empty.toml", "none.toml", "bytes.toml/x.toml"):
        with pytest.raises(EvtoolError):
            catalogue.find(str(tmp_path / name), None)
    with pytest.raises(ProjectionError, match=r"the file is called mine\.toml, and name is 'other'"):
        catalogue.find("mine", tmp_path)


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".hidden", "A", "", "a b", "é", "x" * 129])
def test_a_name_that_could_be_a_path_is_none(name: str):
    with pytest.raises(ProjectionError, match="name must be"):
        definition.parse(f'name = "{name}"\nversion = 1{MEASURES}'.encode(), "mine.toml")


def test_a_value_that_does_not_cast_is_counted_or_stops_it_with_its_position(folder: Path, tmp_path: Path):
    make(
        folder, [[purchase(1), purchase(2, amount="n/a")], [purchase(3, amount="1.005"), purchase(4, amount=None)]]
    )
    text = '[measures]\ntotal = "sum(cast(payload.amount as decimal(18,2)))"\n'
    with evtool.open(folder, read_only=True) as log:
        answer = open_projection(log, write(tmp_path, text)).runner.refresh()
        assert (answer.events, answer.failed_casts) == (4, {'CAST(payload."amount" AS DECIMAL(18, 2))': 2})
        stops = open_projection(log, write(tmp_path, f'on_cast_error = "stop"\n{text}', "stops"))
        with pytest.raises(ProjectionError) as caught:
            stops.runner.refresh()
    assert "position 2 " in caught.value.message
    assert "amount" in caught.value.message


def test_each_cast_has_a_count_of_its_own(folder: Path, tmp_path: Path):
    make(folder, [[purchase(1), purchase(2, amount="n/a")], [purchase(3, "7", amount="1.005")]])
    text = """
        where = "cast(payload.user_id as bigint) is null or true"
        [keys]
        whole = "cast(payload.amount as bigint)"
        [measures]
        total = "sum(cast(payload.amount as decimal(18,2)))"
    """
    with evtool.open(folder, read_only=True) as log:
        answer = open_projection(log, write(tmp_path, text)).runner.refresh()
    assert answer.failed_casts == {
        'CAST(payload."user_id" AS BIGINT)': 2,
        'CAST(payload."amount" AS BIGINT)': 3,
        'CAST(payload."amount" AS DECIMAL(18, 2))': 2,
    }


@pytest.mark.parametrize("name", ["revenue-by-product", "revenue-per-user", "experiment-outcomes"])
def test_a_built_in_projection_stops_at_casts_where_its_parameter_says_so(folder: Path, name: str):
    in_experiment = {"metadata": '{"experiment_id":"x","cohort_id":"a"}'}
    make(folder, [[purchase(1, **in_experiment), purchase(2, amount="n/a", **in_experiment)]])
    with evtool.open(folder, read_only=True) as log:
        assert list(open_projection(log, name).runner.refresh().failed_casts.values()) == [1]
        with pytest.raises(ProjectionError, match="position 2 has a value that is no decimal"):
            open_projection(log, name, on_cast_error="stop").runner.refresh()


def test_a_policy_for_casts_that_there_is_not_is_told_with_its_place(folder: Path, tmp_path: Path):
    make(folder, [[purchase(1)]])
    measures = '[measures]\ncount = "count(*)"\n'
    asked = {'"ignore"': "'ignore'", '":policy"': "there is no value :policy"}
    with evtool.open(folder, read_only=True) as log:
        for policy, told in asked.items():
            reference = write(tmp_path, f"on_cast_error = {policy}\n{measures}")
            with pytest.raises(ProjectionError, match=f"mine.toml:3:.*{told}"):
                open_projection(log, reference).runner.refresh()


def test_the_zero_of_a_minimum_does_not_depend_on_the_order(folder: Path, tmp_path: Path):
    text = """[measures]
least = "min(cast(payload.amount as double))"
most = "max(cast(payload.amount as double))"
"""
    seen = set()
    for number, amounts in enumerate(itertools.permutations(["0.0", "-0.0", "0"])):
        batches = [[purchase(at, amount=amount)] for at, amount in enumerate(amounts)]
        make(tmp_path / str(number), batches)
        with evtool.open(tmp_path / str(number), read_only=True) as log:
            frame = project(log, write(tmp_path, text))
            seen.add(str(frame.row(0)))
    assert seen == {"(0.0, 0.0)"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"grain": "year"}, "none of"),
        ({"grian": "day"}, "no parameter 'grian'"),
        ({"user": "payload."}, ""),
        ({"user": "position"}, ""),
        ({"where": "events"}, "events"),
        ({"timezone": "Mars", "grain": "day"}, "Mars"),
    ],
)
def test_a_setting_that_makes_no_sense_is_a_sentence(folder: Path, settings: dict[str, str], says: str):
    make(folder, [[purchase(1)]])
    with evtool.open(folder, read_only=True) as log, pytest.raises((ProjectionError, ConfigError)) as caught:
        open_projection(log, "funnel-conversion", **settings).runner.refresh()
    assert says in caught.value.message
