"""Where definitions come from: built in, in the folder of one's own, a file, or a Python object."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from evtool.errors import ProjectionError
from evtool.files import translated
from evtool.projections import definition as definitions
from evtool.projections.definition import NAME, Definition

SUFFIX = ".toml"
_BYTES_MAX = 1_000_000

_TEMPLATE_NAME = "NAME"

TemplateKind = Literal["aggregate", "funnel", "retention", "sessions", "score"]
Origin = Literal["built in", "own", "file"]


@dataclass(frozen=True)
class Entry:
    """A definition of the catalogue, and where it is from. An own one goes before a built-in one of its name."""

    name: str
    origin: Origin
    path: Path

    def read(self) -> Definition:
        """The definition. Raises ProjectionError."""
        with translated("read", self.path):
            try:
                with self.path.open("rb") as file:
                    data = file.read(_BYTES_MAX + 1)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ProjectionError(f"there is no file {self.path}") from error
        if len(data) > _BYTES_MAX:
            raise ProjectionError(f"{self.path} is larger than {_BYTES_MAX:,} bytes, which no definition is")
        found = definitions.parse(data, self.name + SUFFIX if self.origin == "built in" else str(self.path))
        if self.origin != "file" and found.name != self.name:
            found.fail(("name",), f"the file is called {self.name}{SUFFIX}, and name is {found.name!r}")
        return found


def entries(own: Path | None) -> dict[str, Entry]:
    """All definitions with a name, by name: those of the folder `own`, and the built-in ones."""
    found = {path.stem: Entry(path.stem, "built in", path) for path in _files(_built_in())}
    if own is not None and own.is_dir():
        found |= {path.stem: Entry(path.stem, "own", path) for path in _files(own)}
    return dict(sorted(found.items()))


def find(reference: str, own: Path | None) -> Definition:
    """The definition of this name, or in the file of this path. Raises ProjectionError."""
    if is_path(reference):
        return Entry(Path(reference).stem, "file", Path(reference)).read()
    known = entries(own)
    if reference not in known:
        near = difflib.get_close_matches(reference, known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ProjectionError(
            f"there is no projection {reference!r}",
            f"{hint}`evtool projections list` shows all; a file is named by its path.",
        )
    return known[reference].read()


def template(kind: TemplateKind, name: str) -> str:
    """A sound definition of this kind and name, to begin with."""
    path = resources.files("evtool.projections") / "templates" / f"{kind}{SUFFIX}"
    return path.read_text(encoding="utf-8").replace(_TEMPLATE_NAME, name)


def is_path(reference: str) -> bool:
    """Whether a reference means a file, not a name."""
    return reference.endswith(SUFFIX) or "/" in reference


def is_object(reference: str) -> bool:
    """Whether a reference means a Python object."""
    return ":" in reference and not is_path(reference)


def _built_in() -> Path:
    return Path(str(resources.files("evtool.projections") / "builtin"))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.glob(f"*{SUFFIX}")) if NAME.fullmatch(path.stem))
