"""A made-up shop's events: NDJSON in evtool's envelope, for demonstrations, tests and benchmarks.

The same seed gives the same bytes on every machine, and event i is the same however many are asked for, so
that a benchmark over a million events starts with exactly the events of a test over a thousand. Two rules
make that hold:

- events are made in blocks of a fixed size, each from its own random bits, seeded by (seed, block number);
- only raw bits are drawn, and no float operation follows but the exactly rounded + - * /. NumPy promises
  that raw bits stay the same; nobody promises that of distributions, nor of pow and log on all processors.

The shop in figures: one event a second on the average; visits of some eight events within half an hour, in
which a visitor keeps to a few neighbouring products; a few users with thousands of events and a long tail
with one visit, so that the number of distinct users grows with the number of events; one event in fifty
arrives seconds late and one in a thousand up to six hours late.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

Integers = npt.NDArray[np.int64]

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
BLOCK_EVENTS = 65_536

_EVENT_GAP_MS = 1_000
_SHORT_DELAY_MS_MAX = 30_000
_LONG_DELAY_MS_MAX = 6 * 3_600_000
_WINDOW_EVENTS = 2_048  # about half an hour, in which ...
_WINDOW_VISITS = 256  # ... this many visits of eight events on the average run side by side
_USER_SCALE = 40  # the smaller, the more events belong to the busiest users
_USER_CHANCE_MIN = 0.002  # keeps user numbers below 10 million
_PRODUCT_COUNT = 4_000

# In each tuple below a value that stands there twice is drawn twice as often.
_SOURCES = ("shop-web",) * 5 + ("shop-ios",) * 3 + ("shop-android",) * 2
_PAGES = ("/", "/", "/", "/new", "/sale", "/sale", "/cart", "/account", "/help", "/category/shoes")
_REFERRERS = ("direct", "direct", "google", "google", "newsletter", "instagram")
_BUTTONS = ("add-to-cart", "add-to-cart", "add-to-cart", "wishlist", "share", "checkout", "size-guide")
_SIGN_IN_METHODS = ("password", "password", "passkey", "google", "apple")
_FLAGS = ("new-checkout", "dark-mode", "fast-search", "one-click-buy")
_CURRENCIES = ("EUR", "EUR", "EUR", "USD", "USD", "GBP")

# Search queries as different clients spell them, already in JSON: raw UTF-8, escapes, surrogate pairs.
_ODD_QUERIES = (
    'café \\"noir\\"',
    'caf\\u00e9 \\"noir\\"',
    "東京 tea",
    "\\u6771\\u4eac tea",
    "socks 🧦",
    "socks \\ud83e\\udde6",
    "50\\/50 cotton",
    "C:\\\\photos\\\\frame",
    "linen\\tshirt",
    "größe 38\\nrot",
)

# Event type, share of the events in thousandths, payload. A name in braces stands for a column of the block.
_KINDS = (
    ("UserViewedPage", 349, '{"user_id":"u{user}","page":"{page}","referrer":"{referrer}"}'),
    ("UserViewedPage", 1, '{"user_id":"u{user}","page":"/search","query":"{odd_query}"}'),
    ("ItemViewed", 350, '{"user_id":"u{user}","product_id":"p{product}","view_ms":{view_ms}}'),
    ("ButtonClicked", 150, '{"user_id":"u{user}","button":"{button}","page":"/product/{product}"}'),
    ("UserSignedIn", 60, '{"user_id":"u{user}","method":"{method}","new_device":{truth}}'),
    (
        "ItemPurchased",
        50,
        '{"user_id":"u{user}","product_id":"p{product}","quantity":{quantity},'
        '"amount":"{amount}","currency":"{currency}"}',
    ),
    (
        "CartAbandoned",
        30,
        '{"user_id":"u{user}","items":{quantity},"cart_value":"{amount}","currency":"{currency}"}',
    ),
    ("FeatureFlagToggled", 10, '{"user_id":"u{user}","flag":"{flag}","enabled":{truth}}'),
)
_METADATA = (
    ',"metadata":{"traceparent":"00-{trace_id}-{span_id}-01","experiment_id":"exp-{experiment}",'
    '"cohort_id":"{cohort}"}'
)
_LINE = (
    '{"event_id":"{event_id}","source_id":"{source}","stream_id":"user-{user}","event_type":"{event_type}",'
    '"timestamp":"{timestamp}","schema_version":1,"payload":{payload}{metadata}}'
)


def blocks(events: int, seed: int, start_ns: int = START_NS, block_events: int = BLOCK_EVENTS) -> Iterator[bytes]:
    """Yield `events` events as NDJSON, `block_events` whole lines at a time, each ended by a newline.

    `start_ns` is the first event's time in nanoseconds since 1970 (UTC); whole milliseconds count. `seed` is
    not negative. The same (seed, start_ns, block_events) always gives the same lines in the same order, and
    fewer events are a prefix of more. Another `block_events` gives other events.
    """
    for number, first in enumerate(range(0, events, block_events)):
        bits = _Bits(seed, number)
        start_ms = start_ns // 1_000_000 + first * _EVENT_GAP_MS
        frame = _draw(bits, block_events, start_ms, not_before_ms=start_ns // 1_000_000)
        yield _lines(frame.head(events - first))


class _Bits:
    """Random numbers of one block, made of nothing but raw bits."""

    def __init__(self, seed: int, block_number: int) -> None:
        self._generator = np.random.PCG64(np.random.SeedSequence((seed, block_number)))

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` floats from [0, 1), each a multiple of 2**-53."""
        high_bits = self._generator.random_raw(count) >> np.uint64(11)
        return high_bits.astype(np.float64) * np.float64(2.0**-53)

    def below(self, limit: int, count: int) -> Integers:
        """`count` integers from [0, limit)."""
        return (self.uniform(count) * limit).astype(np.int64)

    def choice(self, values: tuple[str, ...], count: int) -> pl.Series:
        """`count` of the values, each place in the tuple being equally likely."""
        return pl.Series(values).gather(self.below(len(values), count))

    def hexadecimal(self, digits: int, count: int) -> npt.NDArray[np.uint8]:
        """`count` rows of random hexadecimal digits in ASCII; `digits` is a multiple of 16."""
        raw = self._generator.random_raw(count * digits // 16).astype("<u8").tobytes()
        return np.frombuffer(raw.hex().encode("ascii"), dtype=np.uint8).reshape(count, digits)


def _draw(bits: _Bits, count: int, start_ms: int, not_before_ms: int) -> pl.DataFrame:
    """One block's columns, a row for each event: everything that any of the templates names."""
    visit = np.arange(count) // _WINDOW_EVENTS * _WINDOW_VISITS + bits.below(_WINDOW_VISITS, count)
    visit_count = -(-count // _WINDOW_EVENTS) * _WINDOW_VISITS
    user = _users(bits, visit_count)[visit]
    product = _products(bits, visit_count)[visit] + bits.below(4, count)
    quantity = 1 + bits.below(3, count) * bits.below(2, count)
    price_cents = 199 + product * 7_919 % 15_000  # the same whenever a product is sold
    return pl.DataFrame(
        {
            "kind": _kinds(bits, count),
            "event_id": _event_ids(bits, count),
            "timestamp": _timestamps(bits, count, start_ms, not_before_ms),
            "source": bits.choice(_SOURCES, visit_count).gather(visit),
            "user": user,
            "product": product,
            "quantity": quantity,
            "amount": _amounts(quantity * price_cents),
            "currency": pl.Series(_CURRENCIES).gather(user % len(_CURRENCIES)),
            "page": bits.choice(_PAGES, count),
            "referrer": bits.choice(_REFERRERS, visit_count).gather(visit),
            "view_ms": 200 + bits.below(60_000, count),
            "button": bits.choice(_BUTTONS, count),
            "method": bits.choice(_SIGN_IN_METHODS, count),
            "flag": bits.choice(_FLAGS, count),
            "truth": bits.choice(("true", "false"), count),
            "odd_query": bits.choice(_ODD_QUERIES, count),
            "trace_id": _text_rows(bits.hexadecimal(32, count)),
            "span_id": _text_rows(bits.hexadecimal(16, count)),
            "experiment": user % 5,
            "cohort": pl.Series(("a", "b")).gather(user // 5 % 2),
            "has_metadata": bits.below(5, count) > 0,
        }
    )


def _users(bits: _Bits, count: int) -> Integers:
    """User numbers from 1 on by a Pareto law: P(number > n) is about (1 + n / _USER_SCALE) ** -0.5."""
    chance = _USER_CHANCE_MIN + (1.0 - _USER_CHANCE_MIN) * bits.uniform(count)
    return (_USER_SCALE * (1.0 / (chance * chance) - 1.0)).astype(np.int64) + 1


def _products(bits: _Bits, count: int) -> Integers:
    """Product numbers from 0 on; squaring makes the low ones popular."""
    chance = bits.uniform(count)
    return (chance * chance * _PRODUCT_COUNT).astype(np.int64)


def _kinds(bits: _Bits, count: int) -> Integers:
    """Indexes into `_KINDS`, by their shares."""
    shares = [thousandths for _, thousandths, _ in _KINDS]
    return np.repeat(np.arange(len(shares)), shares)[bits.below(sum(shares), count)]


def _timestamps(bits: _Bits, count: int, start_ms: int, not_before_ms: int) -> pl.Series:
    """RFC 3339 with milliseconds; the times rise, but for the events that arrive late."""
    on_time = start_ms + np.arange(count) * _EVENT_GAP_MS + bits.below(_EVENT_GAP_MS, count)
    lot = bits.below(1_000, count)
    delay = np.where(lot < 20, bits.below(_SHORT_DELAY_MS_MAX, count), 0)
    delay = np.where(lot == 20, bits.below(_LONG_DELAY_MS_MAX, count), delay)
    times = pl.Series(np.maximum(on_time - delay, not_before_ms)).cast(pl.Datetime("ms"))
    return times.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")


def _amounts(cents: Integers) -> pl.Series:
    """1250 becomes 12.50."""
    fraction = pl.Series([f".{value:02d}" for value in range(100)]).gather(cents % 100)
    return pl.Series(cents // 100).cast(pl.String) + fraction


def _event_ids(bits: _Bits, count: int) -> pl.Series:
    """Random UUIDs (version 4) in their canonical spelling."""
    digits = bits.hexadecimal(32, count).copy()
    digits[:, 12] = ord("4")
    digits[:, 16] = np.frombuffer(b"89ab", dtype=np.uint8)[bits.below(4, count)]
    dashes = np.full((count, 1), ord("-"), dtype=np.uint8)
    first, second, third, fourth, last = np.split(digits, (8, 12, 16, 20), axis=1)
    return _text_rows(np.hstack((first, dashes, second, dashes, third, dashes, fourth, dashes, last)))


def _text_rows(characters: npt.NDArray[np.uint8]) -> pl.Series:
    """One string for each row of a matrix of ASCII characters."""
    newline = np.full((len(characters), 1), ord("\n"), dtype=np.uint8)
    text = np.hstack((characters, newline)).tobytes().decode("ascii")
    return pl.Series([text]).str.split("\n").explode().head(len(characters))


def _lines(frame: pl.DataFrame) -> bytes:
    """The block's rows as NDJSON."""
    metadata = pl.when("has_metadata").then(_filled(_METADATA)).otherwise(pl.lit(""))
    line = _filled(_LINE + "\n")
    rows = _with_payload(frame).with_columns(metadata.alias("metadata")).select(line.str.join(""))
    return bytes(rows.to_series().cast(pl.Binary).item())


def _with_payload(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the columns event_type and payload; each template is filled for its own rows only."""
    indexed = frame.with_row_index("row")
    parts = [
        indexed.lazy()
        .filter(pl.col("kind") == kind)
        .select("row", pl.lit(event_type).alias("event_type"), _filled(template).alias("payload"))
        for kind, (event_type, _, template) in enumerate(_KINDS)
    ]
    return frame.hstack(pl.concat(parts).sort("row").drop("row").collect())


def _filled(template: str) -> pl.Expr:
    """An expression that puts columns in the places of their names in braces."""
    pieces = re.split(r"\{(\w+)\}", template)
    return pl.concat_str(pl.col(piece) if place % 2 else pl.lit(piece) for place, piece in enumerate(pieces))


def _nanoseconds(text: str) -> int:
    """RFC 3339 with an offset to nanoseconds since 1970."""
    try:
        since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, TypeError) as error:  # TypeError: there is no offset
        raise argparse.ArgumentTypeError(f"{text!r} is not like 2026-01-01T00:00:00Z") from error
    return since // timedelta(microseconds=1) * 1_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m evtool.shop", description="Write a shop's events as NDJSON.")
    option = parser.add_argument
    option("--events", type=int, required=True, metavar="N", help="how many")
    option("--seed", type=int, default=1, metavar="S", help="another seed, another shop (default: 1)")
    option("--start", type=_nanoseconds, default=START_NS, metavar="RFC3339", help="the first event's time")
    option("--out", type=Path, metavar="FILE", help="where to write instead of the standard output")
    return parser.parse_args()


def main() -> None:
    """Run the command line. A reader that closes the pipe early has had enough: that is no failure."""
    arguments = _arguments()
    try:
        with arguments.out.open("wb") if arguments.out else nullcontext(sys.stdout.buffer) as out:
            for block in blocks(arguments.events, arguments.seed, arguments.start):
                out.write(block)
            out.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit; give it a place where that works.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
