"""Validation of flat payloads of ten fields against a schema, and what a chunk without a schema costs.

    python scripts/benchmarks/validation.py        with the project's environment

Prints events a second of wall and of CPU time, the best of some rounds. The exit code is 1 below the floor.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from measure import limit_cores

EVENTS = 65_536
ROUNDS = 7
FLOOR_EVENTS_PER_SECOND = 300_000

SCHEMA = {
    "type": "object",
    "properties": {
        "user_id": {"type": "string", "minLength": 1},
        "product_id": {"type": "string"},
        "quantity": {"type": "integer", "minimum": 1},
        "amount": {"type": "string", "pattern": "^[0-9]+\\.[0-9]{2}$"},
        "currency": {"enum": ["EUR", "USD", "GBP"]},
        "price": {"type": "number", "minimum": 0},
        "gift": {"type": "boolean"},
        "coupon": {"type": ["string", "null"]},
        "session": {"type": "string", "maxLength": 64},
        "rank": {"type": "integer", "minimum": 0, "maximum": 1000},
    },
    "required": ["user_id", "product_id", "quantity", "amount", "currency"],
    "additionalProperties": False,
}


def payload(choose: random.Random) -> str:
    """A payload of ten fields that is valid."""
    value = {
        "user_id": f"u{choose.randrange(9999)}",
        "product_id": f"p{choose.randrange(999)}",
        "quantity": choose.randrange(1, 5),
        "amount": f"{choose.randrange(999)}.{choose.randrange(10, 99)}",
        "currency": choose.choice(["EUR", "USD"]),
        "price": round(choose.random() * 99, 2),
        "gift": choose.random() < 0.5,
        "coupon": None,
        "session": f"s-{choose.randrange(10**9)}",
        "rank": choose.randrange(1000),
    }
    return json.dumps(value, separators=(",", ":"))


def main() -> int:
    """Measure, print, and say by the exit code whether it is fast enough."""
    limit_cores(2)
    from evtool.files import Files
    from evtool.schemas import document
    from evtool.schemas.registry import Registry
    from evtool.schemas.validation import Validator

    choose = random.Random(1)
    payloads = pl.Series([payload(choose) for _ in range(EVENTS)])
    versions = pl.Series([1], dtype=pl.Int32).new_from_index(0, EVENTS)
    best = {}
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Files(), Path(folder))
        registry.add("Checked", document.parse(json.dumps(SCHEMA)))
        validator = Validator(registry)
        for name in ("Checked", "Other"):
            types = pl.Series([name]).new_from_index(0, EVENTS)
            times = []
            for _ in range(ROUNDS):
                wall, cpu = time.perf_counter(), time.process_time()
                good, _ = validator.check(types, versions, payloads)
                times.append((time.perf_counter() - wall, time.process_time() - cpu))
                assert good.all()
            best[name] = [EVENTS / min(column) for column in zip(*times, strict=True)]
    for name, (by_wall, by_cpu) in best.items():
        print(f"{name:8} {by_wall:14,.0f} events/s, {by_cpu:14,.0f} a second of CPU time")
    return int(best["Checked"][0] < FLOOR_EVENTS_PER_SECOND)


if __name__ == "__main__":
    sys.exit(main())
