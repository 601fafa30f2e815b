"""Erasing: nothing of it is left in any byte, the rest is as it was, and it never comes again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from compacting import compacted
from erasures import (
    BATCH,
    COUNT,
    MARKER,
    PROJECTIONS,
    STREAM,
    erased,
    found,
    is_marked,
    letter,
    make,
    planned,
    sent,
    settings,
)
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from samples import event

import evtool
from evtool.config import Config, RetainConfig
from evtool.errors import ConfigError, NothingToEraseError
from evtool.files import Files
from evtool.ingest.deadletters import DeadLetterFile
from evtool.lifecycle import retention
from evtool.lifecycle.backups.making import back_up
from evtool.lifecycle.backups.place import store_of
from evtool.lifecycle.backups.pruning import prune
from evtool.lifecycle.erasing.choosing import Wanted
from evtool.lifecycle.forgetting import ERASED_METADATA, ERASED_PAYLOAD
from evtool.lifecycle.nightly import run as run_nightly
from evtool.lifecycle.nightsteps import steps
from evtool.lifecycle.verify import verify
from evtool.projections import inventory, snapshots
from evtool.projections import projection as projections
from evtool.schemas import document
from evtool.schemas.steps import from_list

BY_STREAM = Wanted(streams=(STREAM,))
BY_CONDITION = Wanted(where=f"payload.user_id = '{MARKER}'")
ACTIVE = range(COUNT - BATCH, COUNT)


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("erasing") / "segments")


@pytest.fixture
def folder(log_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(log_folder, tmp_path / "segments", symlinks=True))


def held(folder: Path) -> dict[int, dict[str, Any]]:
    with evtool.open(folder, read_only=True) as log:
        return {row["position"]: row for frame in log.scan() for row in frame.iter_rows(named=True)}


def check_clean(folder: Path) -> None:
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes) == ([], [])


def names_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("wanted", [BY_STREAM, BY_CONDITION])
def test_nothing_of_it_is_left_in_any_byte(folder: Path, wanted: Wanted):
    before, places = held(folder), found(folder)
    assert {path.split("/")[0] for path in places} >= {"dead-letters", "read-models", "snapshots"}
    assert sum(path.startswith("0") for path in places) == 4
    report = erased(folder, wanted)
    assert (report.failures, report.not_made) == ([], {})
    assert found(folder) == []
    check_clean(folder)
    after = held(folder)
    assert list(after) == list(before)
    (name,) = {row["stream_id"] for position, row in after.items() if is_marked(position - 1)}
    for position, row in after.items():
        left = {"event_id": f"erased-{position}", "stream_id": name}
        left |= {"payload": ERASED_PAYLOAD, "metadata": ERASED_METADATA}
        assert row == before[position] | (left if is_marked(position - 1) else {})


def test_it_never_comes_again_and_its_stream_goes_on(folder: Path):
    erased(folder, BY_STREAM)
    of_stream = sum(map(is_marked, range(COUNT)))
    for _ in range(2):
        with evtool.open(folder) as log:
            assert log.append(sent()).duplicates == COUNT
            changed = [one | {"payload": '{"another":1}'} for one in sent() if one["stream_id"] == STREAM]
            assert log.append(changed).duplicates == len(changed) == of_stream
            assert log.position == COUNT
        shutil.rmtree(folder / "index")
    with evtool.open(folder) as log:
        log.append([event(COUNT, STREAM)], expected_version={STREAM: of_stream})
        assert log.stream(STREAM)["stream_version"].to_list() == [of_stream + 1]
    check_clean(folder)
    assert erased(folder, BY_STREAM).counts["events"] == 1
    assert found(folder) == []


def test_read_models_are_made_again_and_nights_find_nothing_wrong(folder: Path):
    config = settings(folder)
    erased(folder, BY_STREAM)
    with evtool.open(folder, config=config) as log:
        assert {each.name for each in inventory.kept(config.read_models_path)} == set(PROJECTIONS)
        for name in PROJECTIONS:
            answer = projections.open(log, name, config).runner.stale()
            assert (answer.position, answer.is_outlived) == (COUNT, False)
        assert snapshots.every(log) == []
        report = run_nightly(log, config, steps(config))
    assert [(step.name, step.outcome, step.message) for step in report.steps if step.outcome != "ok"] == []
    compacted(folder, 1 << 30)
    check_clean(folder)
    assert found(folder) == []


def test_what_was_left_unfinished_goes_too(folder: Path):
    state = folder / "read-models/sessions/v1/state"
    left = [
        folder / "dead-letters/dead-letters.ndjson.tmp",
        folder / "snapshots/0123456789abcdef.tmp/sessions.parquet",
        folder / "snapshots/0123456789abcdef/record",
        folder / "nightly/20260131T031700.000000Z.json",
        folder / "nightly/20260131T031701.000000Z.json.tmp",
        folder / "nightly/recompute/sessions/v1/sessions.parquet",
        state / "000000000099.arrow",
        state.parent / "sessions.parquet.tmp",
        state.parent / ".sessions-0123456789abcdef/part.parquet",
        next(folder.glob("0*")) / "events-9.parquet.tmp",
        next(folder.glob("0*")) / "frames.log.tmp",
        folder / "cache/0123.pack",
        folder / "cache/0123.removed/0123.pack",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f'{{"steps": "{MARKER}"}}'.encode())
    with (folder / "dead-letters/dead-letters.ndjson").open("ab") as file:
        file.write(f'{{"raw":"{MARKER}'.encode())
    with evtool.open(folder, read_only=True) as log:
        active = log.snapshot().segments[-1]
    with (active.folder / "frames.log").open("ab") as file:
        file.write(MARKER.encode() * 100)
    sealed = [number for number in range(COUNT) if is_marked(number) and number not in ACTIVE]
    where = f"payload.user_id = '{MARKER}' and position <= {ACTIVE.start}"
    assert erased(folder, Wanted(where=where)).counts["events"] == len(sealed)
    rest = found(folder)
    assert [path for path in rest if not path.startswith(("0", "dead-letters", "read-models"))] == []
    erased(folder, BY_STREAM)
    assert found(folder) == []
    check_clean(folder)


def test_what_a_repair_has_put_aside_goes_too(folder: Path):
    place = folder / "damaged/20260131T031700.000000Z"
    left = [
        place / "00000000000000000001/frames.log.1234",
        place / "dead-letters/dead-letters.ndjson",
        place.with_name("20260131T031701.000000Z") / "events-1.map",
        place / "report.json.tmp",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MARKER.encode())
    messages = [{"file": "index/streams.table", "message": f"stream {STREAM!r} has version 3, and 2 in it"}]
    (place / "report.json").write_text(json.dumps({"lost": [[7, 9]], "derived": messages, "others": messages}))
    nobody = planned(folder, Wanted(("nobody",)))
    with pytest.raises(NothingToEraseError) as refusal:
        nobody.check()
    assert "damaged/" in refusal.value.hint
    plan = planned(folder, BY_STREAM)
    assert (plan.aside.files, plan.aside.bytes) == (4, 4 * len(MARKER))
    assert plan.counts["put_aside"] == 4
    erased(folder, BY_STREAM)
    assert found(folder) == []
    assert json.loads((place / "report.json").read_text()) == {"lost": [[7, 9]], "derived": [], "others": []}
    assert [path for path in (folder / "damaged").rglob("*") if path.is_file()] == [place / "report.json"]


def test_what_was_put_aside_goes_with_dead_letters_alone(folder: Path):
    place = folder / "damaged/20260131T031700.000000Z/dead-letters/dead-letters.ndjson"
    place.parent.mkdir(parents=True)
    place.write_text(f"broken {MARKER}")
    (folder / "dead-letters/dead-letters.ndjson").unlink()
    DeadLetterFile(Files(), folder, durable=False).append([letter(b"broken late")])
    erased(folder, Wanted(("late",)))
    assert not place.exists()


def test_a_read_model_that_ends_before_it_stays_without_leftovers(folder: Path):
    model = folder / "read-models/sessions/v1"
    kept = names_below(model)
    with evtool.open(folder) as log:
        log.append([event(number, "late", payload=f'{{"t":"{MARKER}!"}}') for number in range(COUNT, COUNT + 5)])
    (model / "state/000000000099.sorted").write_text(f"{MARKER}!")
    (model / "sessions.parquet.tmp").write_text(f"{MARKER}!")
    plan = planned(folder, Wanted(("late",)))
    assert (plan.counts["read_models"], plan.counts["snapshots"], plan.touched.segments) == (0, 0, 1)
    erased(folder, Wanted(("late",)))
    assert names_below(model) == kept
    assert found(folder, f"{MARKER}!") == []


def test_what_counts_dropped_events_goes_and_is_not_made_again(folder: Path):
    config = settings(folder)
    with evtool.open(folder, config=config) as log:
        policies = Config(log_path=folder, retain=RetainConfig(types={"ItemViewed": 1}, by="timestamp"))
        retention.apply(log, policies, retention.plan(log, policies, 2**62))
    plan = planned(folder, BY_STREAM)
    assert plan.made.lost == {*(f"{name}/v1" for name in PROJECTIONS), *plan.made.snapshots}
    assert (len(plan.made.snapshots), plan.made.again) == (1, {})
    erased(folder, BY_STREAM)
    assert found(folder) == []
    assert inventory.kept(config.read_models_path) == []
    again = planned(folder, BY_STREAM)
    with pytest.raises(NothingToEraseError):
        again.check()


def test_a_stream_keeps_its_name_until_all_of_it_is_erased(folder: Path):
    first = Wanted(where=f"stream_id = '{STREAM}' and position < 800")
    assert planned(folder, first).chosen.whole == ()
    erased(folder, first)
    names = {row["stream_id"] for row in held(folder).values() if row["payload"] == ERASED_PAYLOAD}
    assert names == {STREAM}
    rest = Wanted(where=f"stream_id = '{STREAM}'")
    plan = planned(folder, rest)
    assert plan.chosen.whole == (STREAM,)
    assert plan.chosen.positions[0] >= 800 > plan.positions[0]
    erased(folder, rest)
    assert found(folder, STREAM) == []
    check_clean(folder)
    with evtool.open(folder) as log:
        assert log.append(sent()).duplicates == COUNT


def test_erasing_nothing_leaves_every_byte(folder: Path):
    before = names_below(folder)
    for wanted in (Wanted(("nobody",)), Wanted(where="event_type = 'Nothing'")):
        with pytest.raises(NothingToEraseError, match="nothing to erase"):
            planned(folder, wanted).check()
    assert names_below(folder) == before


def test_a_condition_that_could_not_be_asked_of_any_event_is_not_taken_for_one_that_is_true_for_none(folder: Path):
    plan = planned(folder, Wanted(where="cast(payload.user_id as bigint) = 4711"))
    assert sum(plan.chosen.failed_casts.values()) > 0
    with pytest.raises(NothingToEraseError) as refusal:
        plan.check()
    assert f"{COUNT:,} values could not be cast: " in refusal.value.hint
    assert "2 dead letters cannot be read" in refusal.value.hint


@pytest.mark.parametrize("text", ["payload.user_id", "no_column = 1", "count(*) > 1", "(", ""])
def test_a_condition_that_is_none_is_refused(folder: Path, text: str):
    with pytest.raises(ConfigError, match="--where"):
        planned(folder, Wanted(where=text))


def test_dead_letters_go_by_what_they_say(folder: Path):
    raws = {
        f'{{"actor":{{"login":"{STREAM}"}}}}': (True, False),
        f'{{"note":"about {STREAM}"}}': (False, False),
        f'{{"payload":{{"user_id":"{MARKER}"}}}}': (False, True),
        f'{{"user_id":"{MARKER}"}}': (False, True),
        f'[1,"{STREAM}"]': (True, True),
        f"{{{STREAM}": (True, True),
        '{"stream_id":"us\\u0065r-' + MARKER + '"}': (True, True),
        '{"stream_id":"user-2"}': (False, False),
        "neither": (False, False),
        '{"payload":{"user_id":7},"timestamp":"soon","schema_version":99999999999}': (False, False),
        '{"payload":{"deep":' + "[" * 400 + "]" * 400 + "}}": (False, False),
        '{"payload":{"user_id":"other","user_id":"' + MARKER + '"},"event_id":null,"metadata":[]}': (False, True),
    }
    path = folder / "dead-letters/dead-letters.ndjson"
    path.unlink()
    letters = [letter(raw.encode(), number) for number, raw in enumerate(raws)]
    DeadLetterFile(Files(), folder, durable=False).append(letters)
    for wanted, place in ((BY_STREAM, 0), (BY_CONDITION, 1)):
        plan = planned(folder, wanted)
        # By the condition all of the stream goes, so what names that goes by the one as by the other.
        named = {each.id for each, (is_named, _) in zip(letters, raws.values(), strict=True) if is_named}
        ids = {each.id for each, goes in zip(letters, raws.values(), strict=True) if goes[place]}
        assert plan.letters.ids == ids | named
        assert plan.letters.unread == place
    erased(folder, BY_STREAM)
    left = [json.loads(line)["raw"] for line in path.read_text().splitlines()]
    assert left == [raw for raw, (is_named, _) in raws.items() if not is_named]


def test_a_dead_letter_of_an_earlier_version_goes_by_what_it_says_in_the_latest(folder: Path):
    raws = [
        f'{{"event_type":"Old","schema_version":1,"payload":{{"usr":"{MARKER}!"}}}}',
        f'{{"event_type":"Old","payload":{{"usr":"{MARKER}!","user_id":7}}}}',  # a step fails on it
        f'{{"event_type":7,"schema_version":"?","payload":{{"usr":"{MARKER}!"}}}}',
    ]
    letters = [letter(raw.encode(), 10 + number) for number, raw in enumerate(raws)]
    DeadLetterFile(Files(), folder, durable=False).append(letters)
    wanted = Wanted(where=f"payload.user_id = '{MARKER}!'")
    assert planned(folder, wanted).letters.ids == set()
    with evtool.open(folder) as log:
        log.schemas.add("Old", document.parse("{}"), compatibility="none")
        renamed = from_list([{"rename": "usr", "to": "user_id"}], "upcast")
        log.schemas.add("Old", document.parse('{"title":"2"}'), steps=renamed)
    assert planned(folder, wanted).letters.ids == {letters[0].id}


def test_backups_that_hold_it_are_named(folder: Path):
    config = settings(folder)
    with evtool.open(folder, config=config) as log:
        made = back_up(log, store_of(config))
        plan = planned(folder, BY_STREAM)
        assert plan.backups is not None
        assert (plan.backups.ids, plan.backups.problem) == ((made.manifest.id,), "")
    erased(folder, BY_STREAM)
    store = store_of(config)
    with evtool.open(folder, config=config) as log:
        kept = back_up(log, store)
    assert prune(store, keep=1, age_seconds=-60).backups == (made.manifest.id,)
    assert found(folder.with_name("backups")) == []
    with evtool.open(folder, config=config) as log:
        log.append([event(COUNT, "late")])
    late = planned(folder, Wanted(("late",)))
    assert late.backups is not None
    assert late.backups.ids == ()
    assert kept.is_new


def test_a_reader_from_before_goes_on_with_what_it_has_mapped(folder: Path):
    with evtool.open(folder, read_only=True) as log:
        frames = log.scan(columns=["position", "payload"])
        first = next(frames)
        erased(folder, BY_STREAM)
        rest = [first, *frames]
    assert sum(map(len, rest)) == COUNT
    assert sum(MARKER in payload for frame in rest for payload in frame["payload"]) == sum(
        map(is_marked, range(COUNT))
    )


@examples(max_examples=4)
@given(st.lists(st.tuples(st.integers(2, 9), st.integers(0, 8), st.booleans()), min_size=1, max_size=3))
def test_any_erasures_leave_the_rest_as_it_was(
    log_folder: Path, tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, int, bool]]
):
    folder = tmp_path_factory.mktemp("any") / "segments"
    shutil.copytree(log_folder, folder, ignore=shutil.ignore_patterns("read-models", "snapshots"))
    before, gone = held(folder), set[int]()
    for modulus, rest, is_compacted in asked:
        chosen = {at for at in before if at % modulus == rest and at % 3 == 0} - gone
        plan = planned(folder, Wanted(where=f"position % {modulus} = {rest} and position % 3 = 0"))
        assert set(plan.chosen.positions.tolist()) == chosen
        if not plan.is_empty:
            erased(folder, plan.wanted)
        gone |= chosen
        if is_compacted:
            compacted(folder, 1 << 30)
    after = held(folder)
    assert {at: row for at, row in after.items() if at not in gone} == {
        at: row for at, row in before.items() if at not in gone
    }
    assert all(after[at]["payload"] == ERASED_PAYLOAD for at in gone)
    check_clean(folder)
    with evtool.open(folder) as log:
        assert log.append(sent()).duplicates == COUNT
