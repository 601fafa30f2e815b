"""What is refused, with its place and what to write instead; that an expression reads nothing but its event."""

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.projections.expression import ExpressionError, canonical
from evtool.projections.parsing import parse

REFUSED = [
    # text, line, column, what the message says
    ("payload.quantity = 5", 1, 1, r"payload.quantity is text, .* write cast\(payload.quantity as bigint\)"),
    ("5 < payload.quantity", 1, 5, r"write cast\(payload.quantity as bigint\)"),
    ("payload.price > 1.25", 1, 1, r"write cast\(payload.price as decimal\(18,2\)\)"),
    ("payload.paid = true", 1, 1, r"write cast\(payload.paid as boolean\)"),
    ("position > 0 and payload.paid", 1, 18, r"write cast\(payload.paid as boolean\)"),
    ("1 +\n  payload.amount", 2, 3, r"write cast\(payload.amount as bigint\)"),
    ("timestamp > payload.at", 1, 13, r"write cast\(payload.at as timestamp\)"),
    ("position = '5'", 1, 12, "write 5 without quotes"),
    ("date(timestamp) = timestamp", 1, 19, r"write date\(timestamp\)"),
    ("coalesce(payload.a, 1)", 1, 10, r"cast\(payload.a as bigint\)"),
    ("case when true then 'a' else position end", 1, 21, "'a' is text"),
    ("lenght(event_type)", 1, 1, "no function 'lenght'.*Did you mean length"),
    ("position +\n lenght(event_type)", 2, 2, "no function 'lenght'"),
    ("evnt_type", 1, 1, "no column 'evnt_type'.*Did you mean event_type"),
    ("user_id = 'x'", 1, 1, "payload.user_id"),
    ("payload", 1, 1, "as a whole"),
    ("event_type.a", 1, 1, "no members"),
    ("payload.a[-1]", 1, 1, "index"),
    ("payload.a[1:2]", 1, 1, "index"),
    ("payload.select", 1, 9, 'stands in quotes: "select"'),
    ("length(event_type, 1)", 1, 1, r"Write length\(text\)"),
    ("left(event_type, position)", 1, 18, "written as a whole number"),
    ("date(timestamp, 'Mars/Olympus')", 1, 17, "no time zone 'Mars/Olympus'"),
    ("date(timestamp, '/etc/localtime')", 1, 17, "no time zone"),
    ("bucket(timestamp, 'fortnight', 'UTC')", 1, 19, "'fortnight' is none of hour, day, week, month"),
    ("timestamp > '2024-13-01'", 1, 13, "month"),
    ("timestamp + interval '1 month'", 1, 1, "no fixed length"),
    ("timestamp + 5", 1, 1, "Add an interval"),
    ("event_type in (stream_id)", 1, 16, "written out"),
    ("event_type in ('a', null)", 1, 1, "written out"),
    ("event_type like stream_id", 1, 17, "pattern must be written"),
    ("cast(position as decimal(39, 0))", 1, 6, "up to 38 digits"),
    ("cast(position as integer[])", 1, 6, "no type"),
    ("cast(position as boolean)", 1, 6, "cannot be cast"),
    ("cast('2024-02-30' as date)", 1, 6, "is no date"),
    ("cast(payload.a as decimal(38,20)) * cast(payload.b as decimal(38,20))", 1, 6, "40 digits behind the point"),
    (f"position + {'9' * 39}", 1, 12, "38 digits"),
    ("1e999", 1, 1, "too large"),
    (":who", 1, 1, "no parameter :who. There are: :user"),
    ("1 +", 1, 3, "missing"),
    ("(1 + 2", 1, 6, "expecting"),
    ("'abc", 1, 4, "not closed"),
    ("position position", 1, 10, "not expected"),
    ("", 1, 1, "missing"),
    ("sum(position)", 1, 1, "Aggregates stand in measures"),
    ("timestamp at time zone 'Europe/Berlin'", 1, 1, r"date\(timestamp, 'Europe/Berlin'\)"),
]


@pytest.mark.parametrize(("text", "line", "column", "said"), REFUSED, ids=[case[0][:40] for case in REFUSED])
def test_a_refusal_says_where_and_what_to_write(text: str, line: int, column: int, said: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        parse(text, {"user": parse("stream_id")})
    assert re.search(said, str(refused.value)), str(refused.value)
    assert (refused.value.line, refused.value.column) == (line, column)
    assert "sqlglot" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "read_csv('/etc/passwd')",
        "read_text('/etc/passwd')",
        "read_parquet('x')",
        "getenv('HOME')",
        "(select 1)",
        "select 1",
        "exists(select 1)",
        "event_type in (select a from b)",
        "(values (1))",
        "position in (from b)",
        "current_date",
        "current_timestamp",
        "now()",
        "random()",
        "uuid()",
        "query_table('x')",
        "query('select 1')",
        "1; drop table x",
        "create macro f() as 1",
        "attach 'x'",
        "copy x to 'y'",
        "set x = 1",
        "pragma version",
        "@x",
        "$1",
        "?",
        "$$text$$ || 1",
        "x -> x + 1",
        "lambda x: x",
        "[1, 2]",
        "{'a': 1}",
        "array_agg(position order by position)",
        "sum(position) over ()",
        "position collate nocase",
        "payload.a -> 'b'",
        "payload.a ->> 'b'",
        "eval('1')",
        "__import__('os')",
        "main.read_csv('x')",
        "payload.keys()",
        "cast(position as geometry)",
        "try_cast(position as int)",
        "*",
        "payload.*",
        "columns(*)",
        "event_type similar to 'x'",
        "event_type like 'x' escape '!'",
        "position & 1",
        "position as p",
        "{{ env.HOME }}",
        "nextval('s')",
    ],
)
def test_an_expression_reads_nothing_but_its_event(text: str) -> None:
    for measure in (False, True):
        with pytest.raises(ExpressionError):
            parse(text, measure=measure)


@pytest.mark.parametrize(
    "text", ["(" * 5000 + "1" + ")" * 5000, "1" + " + 1" * 5000, "not " * 5000 + "true", "-" * 9 + "x"]
)
def test_a_text_that_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


WORDS = """payload . a [ 0 ] ( ) , + - * / % = < > <> || :: : ' " 1 1.5 1e3 'x' "k" null true case when then else
end and or not in like between is cast as text decimal interval '1_day' count sum filter where distinct select from
position timestamp date extract over ; -- /* */ \\ é :user"""


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS.split()), max_size=10).map(" ".join) | st.text(max_size=20))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        tree = parse(text, {"user": parse("stream_id")}, measure="sum" in text)
        assert parse(canonical(tree), measure="sum" in text) == tree
