"""Measures, parameters, and what a tree says of itself: columns, paths, casts, needed event types."""

from decimal import Decimal

import polars as pl
import pytest

from evtool.projections.language import expression as tree
from evtool.projections.language.expression import ExpressionError, JsonPath, canonical, literal
from evtool.projections.language.lowering import lower
from evtool.projections.language.parsing import parse

AMOUNT = "cast(payload.amount as decimal(18,2))"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("count(*)", "integer"),
        ("count(payload.a)", "integer"),
        ("count(distinct payload.a)", "integer"),
        ("approx_count_distinct(payload.a)", "integer"),
        ("sum(position)", "decimal(38,0)"),
        (f"sum({AMOUNT})", "decimal(38,2)"),
        ("sum(cast(payload.a as decimal(9,4)) * position)", "decimal(38,4)"),
        (f"avg({AMOUNT})", "float"),
        ("min(event_type)", "text"),
        ("max(timestamp)", "timestamp"),
        ("max(timestamp) - min(timestamp)", "interval"),
        (f"first({AMOUNT})", "decimal(18,2)"),
        ("last(payload.plan)", "text"),
        ("top_k(payload.a, 3)", "text"),
        (f"round(sum({AMOUNT}) * 0.19, 2)", "decimal(37,2)"),
        (f"sum({AMOUNT}) / count(*)", "float"),
        ("count(*) filter (where event_type = 'a') / count(*)", "float"),
    ],
)
def test_a_measure_has_a_type_and_reads_back_from_its_canonical_text(text: str, kind: str) -> None:
    found = parse(text, measure=True)
    assert str(found.type) == kind
    assert parse(canonical(found), measure=True) == found


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("sum(payload.amount)", 5, r"sum\(cast\(payload.amount as decimal\(18,2\)\)\)"),
        ("avg(payload.amount)", 5, r"avg\(cast\(payload.amount as decimal\(18,2\)\)\)"),
        (
            "sum(cast(payload.amount as double))",
            10,
            r"exactly: write sum\(cast\(payload.amount as decimal\(18,2\)\)\)",
        ),
        ("sum(position / 2)", 5, "float"),
        ("max(sum(position))", 5, "do not nest"),
        ("count(*) filter (where count(*) > 1)", 24, "do not nest"),
        ("count(*) + position", 12, r"max\(position\)"),
        ("count(*) filter (where event_type)", 24, "boolean"),
        ("length(event_type) filter (where true)", 1, "FILTER goes with an aggregate"),
        ("sum(distinct position)", 14, "DISTINCT"),
        ("count(distinct position, event_type)", 1, "arguments"),
        ("sum(*)", 5, "STAR"),
        ("top_k(event_type, 0)", 7, "between 1 and"),
        ("1 + 1", 1, "needs an aggregate"),
        (":user", 1, "outside of an aggregate"),
    ],
)
def test_what_is_no_measure_is_refused(text: str, column: int, said: str) -> None:
    with pytest.raises(ExpressionError, match=said) as refused:
        parse(text, {"user": parse("stream_id")}, measure=True)
    assert refused.value.column == column


def test_aggregates_are_found_in_order_and_replaced_by_their_results() -> None:
    found = parse(f"sum({AMOUNT}) filter (where event_type = 'a') / count(distinct stream_id)", measure=True)
    total, buyers = tree.aggregates(found)
    assert (total.function, buyers.function) == ("sum", "count_distinct")
    assert (total.is_distinct, buyers.is_distinct) == (False, True)
    assert canonical(total.filter or found) == "event_type = 'a'"
    results = {total: tree.Result("a", total.type), buyers: tree.Result("b", buyers.type)}
    outer = tree.replace(found, results)
    frame = pl.DataFrame(
        {"a": [Decimal("1.00"), None], "b": [3, 1]}, schema={"a": pl.Decimal(38, 2), "b": pl.Int64}
    )
    assert frame.select(lower(outer)).to_series().to_list() == [1 / 3, None]
    average = tree.quotient(results[total], results[buyers])
    assert frame.select(lower(average)).to_series().to_list() == [1 / 3, None]


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        (
            "position = 1",
            ["Position  =\n1", "((position) = (1))", "position -- why\n = 1", "position /* a */ = 1"],
        ),
        ("(position >= 1) AND (position <= 2)", ["position BETWEEN 1 AND 2", "position>=1 and position<=2"]),
        ("TRUE OR FALSE OR TRUE", ["true or (false or true)", "(TRUE OR FALSE) OR TRUE"]),
        ("CASE WHEN position = 1 THEN 2 ELSE NULL END", ["case position when 1 then 2 end"]),
        ("position", ["position::bigint", '"position"']),
        ("CAST(position AS TEXT)", ["position::int::text", "cast(position as varchar)"]),
        ("timestamp > TIMESTAMP '2024-01-01T00:00:00.000000000Z'", ["timestamp > '2024-01-01'"]),
        ("timestamp + INTERVAL '1 days'", ["timestamp + interval '24 hours'", "timestamp + interval '1' day"]),
        ("substring(event_type, 2)", ["substr(event_type, 2)", "SUBSTRING(event_type, 2)"]),
        ("dow(timestamp)", ["extract(dow from timestamp)", "dayofweek(timestamp)"]),
        ('payload."items"[0]."s k""u"', ['payload.items[0]."s k""u"', "PAYLOAD['items'][0]['s k\"u']"]),
        ("position - (-5)", ["position - -5", "position - (-(5))"]),
        ("(position + 1) * 2", ["(position+1)*2"]),
        ("coalesce(payload.\"user_id\", stream_id) = 'it''s'", [":user = 'it''s'", ":user = :text"]),
    ],
)
def test_equal_meanings_have_one_canonical_text(wanted: str, texts: list[str]) -> None:
    parameters = {"user": parse("coalesce(payload.user_id, stream_id)"), "text": literal("it's")}
    assert {canonical(parse(text, parameters)) for text in [wanted, *texts]} == {wanted}


@pytest.mark.parametrize(
    "value",
    ["it's", "", 5, -(2**63), 2**63, 10**37, True, False, Decimal("0.10"), Decimal("-1E+5"), Decimal("1E-38")],
)
def test_the_value_of_a_parameter_comes_through_its_canonical_text(value: str | int | Decimal) -> None:
    found = literal(value)
    assert parse(canonical(found)) == found
    assert pl.select(lower(found)).item() == value


@pytest.mark.parametrize("value", [10**38, Decimal("1E-39"), Decimal(f"1{30 * '0'}.0000000001")])
def test_a_number_of_more_than_38_digits_is_no_value(value: int | Decimal) -> None:
    with pytest.raises(ExpressionError, match="38 digits"):
        literal(value)


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("event_type = 'a'", {"a"}),
        ("'a' = event_type", {"a"}),
        ("event_type in ('a', 'b') and position > 1", {"a", "b"}),
        ("event_type = 'a' or (event_type = 'b' and payload.x = 'y')", {"a", "b"}),
        ("event_type in ('a', 'b') and event_type in ('b', 'c')", {"b"}),
        ("event_type = 'a' or position > 1", None),
        ("event_type <> 'a'", None),
        ("not event_type = 'a'", None),
        ("event_type = stream_id", None),
        ("stream_id = 'a'", None),
        ("true", None),
        ("false", set()),
        ("event_type = 'a' or false", {"a"}),
    ],
)
def test_the_event_types_that_a_condition_needs(text: str, types: set[str] | None) -> None:
    assert tree.types_needed(parse(text)) == types


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("event_type = 'a' or position > 1", {"a"}),
        ("case when 'b' = event_type and payload.x in ('y') then event_type in ('c', 'd') end", {"b", "c", "d"}),
        ("not event_type = 'a' and event_type <> 'b' and event_type not in ('c') and stream_id = 'd'", set()),
        ("count(*) filter (where event_type = 'a')", {"a"}),
    ],
)
def test_the_event_types_that_an_expression_asks_for(text: str, types: set[str]) -> None:
    assert tree.types_named(parse(text, measure=text.startswith("count"))) == types


def test_a_tree_tells_what_it_reads_and_what_may_fail() -> None:
    found = parse("case when payload.a.b = 'x' then cast(metadata.n[0] as bigint) else position + 1 end")
    assert tree.json_paths(found) == {JsonPath("payload", ("a", "b")), JsonPath("metadata", ("n", 0))}
    assert tree.columns(found) == {"payload", "metadata", "position"}
    assert list(map(str, tree.casts(found))) == [
        'CAST(metadata."n"[0] AS BIGINT)',
        "CAST(position + 1 AS BIGINT)",
    ]
    assert tree.casts(parse("cast(position as decimal(38,2)) + cast(position as double)")) == ()


def test_paths_that_differ_have_columns_that_differ() -> None:
    paths = [("a", "b"), ("a.b",), ('a"."b',), ("a", 0), ("a[0]",), ("a", "0"), ('a"',), ("a", ""), ("",), ("a",)]
    columns = [JsonPath("payload", steps).column for steps in paths]
    assert len(set(columns)) == len(paths)
    for steps, column in zip(paths, columns, strict=True):
        assert parse(column) == JsonPath("payload", steps)


@pytest.mark.parametrize(
    "text", ["payload['list'][2]", "payload.list[2].z", "payload.array[0]", "payload.date[0]", "payload['not'][1]"]
)
def test_members_may_be_called_as_words_of_sql_and_have_elements(text: str) -> None:
    found = parse(f"{text} = 'x'")
    assert parse(canonical(found)) == found
    (path,) = tree.json_paths(found)
    assert isinstance(path.steps[1], int)
