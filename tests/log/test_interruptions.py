"""An append that is interrupted half way: by Ctrl-C, or because memory ran out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from samples import MOMENT_NS, check_sound, config, event, ids

import evtool
from evtool import envelope
from evtool.files import Files
from evtool.log.writer import Writer


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_append_that_is_interrupted_before_its_commit_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
):
    """Whatever is acknowledged after it, by this log object or the next one, must be there."""
    acknowledged = ["event-1"]
    with evtool.open(folder, create=True) as log:
        log.append([event(1)])

        def interrupted(*_: Any) -> None:
            raise interruption

        with monkeypatch.context() as patch:
            patch.setattr(Writer, "encode", interrupted)
            with pytest.raises(interruption):
                log.append([event(2), event(3)])
        try:
            log.append([event(4)])
            acknowledged.append("event-4")
        except evtool.EvtoolError:
            pass  # to refuse is fine, to acknowledge and lose is not
    (folder / "HEAD").unlink()
    with evtool.open(folder) as log:
        log.append([event(5)])
        assert ids(log) == [*acknowledged, "event-5"]
    check_sound(folder)


@pytest.mark.parametrize("count", [1, 2])
def test_a_prepare_that_is_interrupted_takes_no_place_and_no_version(folder: Path, count: int):
    """The clock is asked in the middle of it: here somebody presses Ctrl-C just then."""
    manifest = evtool.open(folder, create=True).manifest
    interruptions = iter([None, *[KeyboardInterrupt] * count])

    def now_ns() -> int:
        interruption = next(interruptions, None)
        if interruption is not None:
            raise interruption
        return MOMENT_NS

    writer = Writer(Files(), folder, manifest, config().log, now_ns=now_ns)
    acknowledged = []
    for number in range(5):
        try:
            prepared = writer.prepare(envelope.batch([event(number)]))
            writer.commit(prepared, [writer.encode(part) for part in prepared.parts])
            acknowledged.append(f"event-{number}")
        except (KeyboardInterrupt, evtool.EvtoolError):
            pass
    writer.close()
    with evtool.open(folder) as log:
        log.append([event(5)])
        assert ids(log) == [*acknowledged, "event-5"]
    check_sound(folder)
