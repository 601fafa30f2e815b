"""What expressions compute: the same as DuckDB, and the same after they were written down and read again."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.projections.expression import canonical
from evtool.projections.lowering import lower
from evtool.projections.parsing import parse
from tests.projections import expression_samples as samples
from tests.projections.expression_samples import Pair


@pytest.mark.parametrize("kind", samples.OF_ANY_TYPE, ids=lambda kind: str(kind.__name__))
def test_expressions_have_the_values_that_duckdb_gives_them(kind) -> None:
    @settings(max_examples=25)
    @given(samples.rows(), st.lists(kind(2), min_size=8, max_size=8))
    def check(events: pl.DataFrame, pairs: list[Pair]) -> None:
        trees = [parse(pair.ours) for pair in pairs]
        found = events.select("position", *(lower(tree).alias(str(at)) for at, tree in enumerate(trees)))
        wanted = samples.duckdb_values(events, [pair.duck for pair in pairs])
        for at, pair in enumerate(pairs):
            column = found[str(at)]
            assert column.dtype == trees[at].type.column_type, pair.ours
            assert [samples.plain(value) for value in column] == wanted[at], pair
            assert parse(canonical(trees[at])) == trees[at]

    check()
