"""Does a mapping name anything of the input? Asked of its first events, before one of them is stored.

A path that is spelled wrongly would make a dead letter of every event, or leave every one without its time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from evtool import jsontext
from evtool.errors import ConfigError
from evtool.event import NESTING_MAX, TEXT_BYTES_MAX
from evtool.ingest import mapping
from evtool.ingest.mapping import SPACE, Field, Rules, Shape, Steps

LINES_MAX = 1000
ENOUGH_LINES = 100  # of which at least one has a field that not every event needs
EXAMPLES = 5
_BYTES_MAX = 4 * 1024 * 1024
_DEPTH_MAX = 4
_KEYS_SHOWN = 12


def check(shape: Shape, rules: Rules, chunk: bytes) -> bool:
    """Whether there was an object in the chunk by which the mapping could be judged.

    Raises ConfigError if none of the first lines has anything at the paths of a mapped field: for a field
    that every event needs by as few lines as there are, for another one by ENOUGH_LINES.
    """
    samples = list(_samples(chunk))
    for field in shape.fields.values():
        if (
            field.is_mapped
            and field.paths
            and field.paths[0].steps
            and len(samples) >= _lines_needed(field, rules)
        ):
            steps = [path.steps for path in field.paths]
            if all(mapping.find(whole, path) is None for whole in samples for path in steps):
                raise _names_nothing(field, samples)
    return bool(samples)


def _lines_needed(field: Field, rules: Rules) -> int:
    is_needed = field.name in TEXT_BYTES_MAX
    if (field.name == "event_id" and rules.derives_ids) or (field.name == "source_id" and rules.default_source):
        is_needed = False
    return 1 if is_needed else ENOUGH_LINES


def _samples(chunk: bytes) -> Iterator[dict[str, bytes]]:
    for line in chunk[:_BYTES_MAX].split(b"\n", LINES_MAX)[:LINES_MAX]:
        try:
            jsontext.check_object(line, NESTING_MAX)
        except jsontext.JsonError:
            continue
        yield mapping.members_of(line.strip(SPACE))


def _names_nothing(field: Field, samples: Sequence[dict[str, bytes]]) -> ConfigError:
    written = ", ".join(f'"{path.text}"' for path in field.paths)
    known = list(dict.fromkeys(place for whole in samples[:EXAMPLES] for place in _places(whole)))
    near = difflib.get_close_matches(field.paths[0].text, known, n=1)
    keys = (f"{number}: {_shown(list(whole))}" for number, whole in enumerate(samples[:EXAMPLES], start=1))
    return ConfigError(
        f"ingest.fields.{field.name} = {written} names nothing in the first {len(samples):,} events; "
        "nothing was stored",
        (f"Did you mean {near[0]!r}? " if near else "") + f"The keys of the first events are {'; '.join(keys)}.",
    )


def _shown(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_KEYS_SHOWN]) + (", …" if len(keys) > _KEYS_SHOWN else "") if keys else "none"


def _places(members: dict[str, bytes], before: Steps = ()) -> Iterator[str]:
    for key, raw in members.items():
        steps = (*before, key)
        yield ".".join(map(str, steps))
        if raw[:1] == b"{" and len(steps) < _DEPTH_MAX:
            yield from _places(mapping.members_of(raw), steps)
