"""What `import evtool` gives, and the errors that it raises on purpose."""

from __future__ import annotations

import importlib
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evtool
from evtool import errors
from evtool.config import load
from evtool.errors import EvtoolError, IdConflictError, LogDamagedError, VersionConflictError

EXPORTS = ["Commit", "EvtoolError", "Log", "Selection", "open"]
# Codes that mean something else on a command line: success, a usage error, and signals.
TAKEN_CODES = {0, 2, *range(126, 256)}


def family(cls: type[EvtoolError] = EvtoolError) -> Iterator[type[EvtoolError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from family(child)


CLASSES = list(family())


def test_the_exports_are_these():
    assert evtool.__all__ == EXPORTS
    assert dir(evtool) == EXPORTS


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_the_thing_itself(name: str):
    homes = {
        "Commit": "evtool.log.writer",
        "EvtoolError": "evtool.errors",
        "Selection": "evtool.log.selection",
    }
    home = importlib.import_module(homes.get(name, "evtool.log.log"))
    assert getattr(evtool, name) is getattr(home, name)
    assert getattr(evtool, name).__doc__


def test_a_star_import_gives_the_exports_and_no_more():
    names: dict[str, object] = {}
    exec("from evtool import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == EXPORTS


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        evtool.nothing  # noqa: B018
    assert not hasattr(evtool, "Writer")


def test_open_reads_no_evtool_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a program does must not depend on where it is started; it may ask for the file."""
    (tmp_path / "evtool.toml").write_text('[log]\npath = "elsewhere"\npartitions = 3\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVTOOL_LOG", "anywhere")
    assert evtool.open("plain", create=True).partitions == 8
    assert evtool.open("asked", create=True, config=load()).partitions == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked", "evtool.toml", "plain"]


def test_importing_evtool_imports_nothing_else_of_it():
    code = "import evtool, sys; print([name for name in sys.modules if name.startswith(('evtool.', 'polars'))])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert output.strip() == "[]"


def test_a_log_and_its_parts_say_what_they_do():
    for name, member in vars(evtool.Log).items():
        if not name.startswith("_"):
            assert member.__doc__, name


# The errors.


def drawn_tree() -> Iterator[tuple[str, str, int | None, str]]:
    """(name, parent, exit code, description) of each line of the tree in the module's docstring."""
    parents: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([ │├└─]*)(\w+Error)(?: +(\d+))?(?: +(\S.*))?", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        parents = [(other, parent) for other, parent in parents if other < depth]
        yield name, parents[-1][1] if parents else "Exception", int(match[3]) if match[3] else None, match[4] or ""
        parents.append((depth, name))


def test_the_drawn_tree_is_the_tree():
    drawn = {name: (parent, code) for name, parent, code, _ in drawn_tree()}
    real = {cls.__name__: (cls.__base__.__name__, vars(cls).get("exit_code")) for cls in CLASSES if cls.__base__}
    assert drawn == real
    assert len(drawn) > 15


def test_the_tree_s_words_are_the_docstrings_first_ones():
    for name, _, _, description in drawn_tree():
        text = " ".join((getattr(errors, name).__doc__ or "").split()).lower().rstrip(".")
        if description and name != "EvtoolError":
            key = set(re.findall(r"\w+", description.lower()))
            said = set(re.findall(r"\w+", text))
            assert len(key & said) >= min(3, len(key)), f"{name}: {description!r} and {text!r}"


def test_every_error_has_an_exit_code_of_its_own():
    own = [cls.exit_code for cls in CLASSES if "exit_code" in vars(cls)]
    assert len(own) == len(set(own))
    assert not TAKEN_CODES & set(own)
    # Only a class that is never raised itself may go without one.
    assert [cls.__name__ for cls in CLASSES if "exit_code" not in vars(cls)] == ["LogError"]


def test_the_table_of_exit_codes_has_every_error():
    assert errors.exit_codes() == {
        cls.exit_code: (cls.__doc__ or "").splitlines()[0] for cls in CLASSES if "exit_code" in vars(cls)
    }


# Those that say what they are about by fields of their own: how they are made, and what they then say.
WITH_FIELDS: list[tuple[EvtoolError, str]] = [
    (
        IdConflictError("shop", "event-1", 7, 3),
        "event 3 of the batch: id_conflict: source 'shop' has sent 'event-1' with another content, as position 7",
    ),
    (VersionConflictError("user-1", 4, 5), "stream 'user-1' is at version 5, and version 4 was expected"),
    (
        VersionConflictError("user-1", "no_stream", 5),
        "stream 'user-1' is at version 5, and no event of it was expected",
    ),
    (
        VersionConflictError("user-1", "exists", 0),
        "stream 'user-1' is at version 0, and an event of it was expected",
    ),
    (
        VersionConflictError("user-1", 4, 5, 3),
        "event 3 of the batch: version_conflict: stream 'user-1' expects version 6, and 4 was given",
    ),
]
PLAIN = [cls for cls in CLASSES if "__init__" not in vars(cls) or cls in (EvtoolError, LogDamagedError)]


def test_every_error_is_made_in_one_of_these_ways():
    assert {*PLAIN, *(type(error) for error, _ in WITH_FIELDS)} == set(CLASSES)


@pytest.mark.parametrize(("error", "message"), WITH_FIELDS, ids=lambda value: type(value).__name__)
def test_an_error_with_fields_carries_them_everywhere(error: EvtoolError, message: str):
    assert str(error) == error.message == message
    assert error.hint.startswith("Nothing of the batch was stored.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (message, vars(error))
    assert len(vars(error)) > 2


@pytest.mark.parametrize("cls", PLAIN, ids=lambda cls: cls.__name__)
def test_an_error_carries_its_message_and_hint_everywhere(cls: type[EvtoolError]):
    error = cls("what happened", "what to do")
    assert (str(error), error.message, error.hint) == ("what happened", "what happened", "what to do")
    assert cls("what happened").hint == ""
    assert cls.__doc__
    copy = pickle.loads(pickle.dumps(error))  # as it comes from another process
    assert type(copy) is cls
    assert (copy.message, copy.hint, copy.exit_code) == ("what happened", "what to do", cls.exit_code)


def test_damage_says_what_it_is_without_where_in_a_copy_too():
    error = LogDamagedError("a/b: it is torn", "Bring it back.", "it is torn")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.message, copy.hint, copy.what) == ("a/b: it is torn", "Bring it back.", "it is torn")
    assert LogDamagedError("all of it").what == "all of it"
