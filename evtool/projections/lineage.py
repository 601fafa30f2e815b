"""Where a read model comes from: noted in its Parquet file, and in full in <name>.lineage.json beside it.

In the file, under the key `evtool.lineage`, stands only what depends on the events and the definition: the log's
identity, times and chain do not, and logs of the same events must give the same bytes. In a part of a partitioned
read model the position and the counts are left out too: they are those of all parts, and a part whose rows stay as
they are must stay as it is.

Beside the file stands all of that, what it was made from and when, the SHA-256 of each file, and a checksum of
what is said. It is put in place in two steps, around the change of the read model itself: first as
<name>.lineage.json.next, then by its own name. So at any moment one of the two describes what is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from evtool.errors import InputError
from evtool.files import Files, translated
from evtool.projections.definition import Identity
from evtool.projections.record import CHECKSUM, checksum_of
from evtool.timestamps import parse_text, to_text

LINEAGE_KEY = "evtool.lineage"
PART_FILE = "part.parquet"
FORMAT = 1

_MADE_AGAIN = "If it is a read model's, `evtool verify` says what makes it again."
_OF_THE_WHOLE = ("position", "events", "failed_casts")


@dataclass(frozen=True)
class Lineage:
    """What a read model was made from: the selected `events` of a log up to `position`.

    `failed_casts` counts the values that could not be cast, by cast; "" is one of a time when they had no names.
    `recorded_at` (ns UTC) is that of `position`, None in an empty log. `input_digest` is that of the log's batches
    up to `position` (`Snapshot.digest_at`). `reference` is as in Identity.
    """

    projection: str
    version: int
    definition_hash: str
    parameters: Mapping[str, Any]
    position: int
    events: int
    failed_casts: Mapping[str, int]
    log_id: str
    chain: int
    recorded_at: int | None
    input_digest: str | None = None
    reference: str = ""

    def of_file(self) -> dict[str, Any]:
        """What depends on the events and the definition alone."""
        identity = Identity(self.projection, self.version, self.definition_hash, self.parameters)
        return of_answer(identity, self.position, self.events, self.failed_casts)

    def of_part(self) -> dict[str, Any]:
        """What depends on the definition and the rows of a part alone."""
        return {key: value for key, value in self.of_file().items() if key not in _OF_THE_WHOLE}

    def beside(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """All there is to say, with the `output` that it was written to."""
        return self.of_file() | {
            "log_id": self.log_id,
            "chain": f"{self.chain:016x}",
            "recorded_at": None if self.recorded_at is None else to_text(self.recorded_at),
            "input_digest": self.input_digest,
            "reference": self.reference,
            "output": output,
            "made_at": to_text(time.time_ns()),
            "evtool": version_of("evtool"),
        }

    @staticmethod
    def of(beside: Mapping[str, Any]) -> Lineage:
        """The lineage that stands beside a read model. Raises ValueError when it is not as it was written."""
        try:
            values = {each.name: beside[each.name] for each in fields(Lineage) if each.name != "reference"}
            values["reference"] = str(beside.get("reference", ""))  # earlier ones have none
            if type(values["failed_casts"]) is int:
                values["failed_casts"] = {"": values["failed_casts"]} if values["failed_casts"] else {}
            numbers = [values[name] for name in ("version", "position", "events")]
            numbers += values["failed_casts"].values()
            if not all(type(number) is int for number in numbers):
                raise ValueError("a number is none")
            return Lineage._read(values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error

    @staticmethod
    def _read(values: dict[str, Any]) -> Lineage:
        recorded_at = values["recorded_at"]
        values["recorded_at"] = None if recorded_at is None else parse_text(recorded_at)
        return Lineage(**values | {"chain": int(values["chain"], 16)})


def of_answer(identity: Identity, position: int, events: int, failed_casts: Mapping[str, int]) -> dict[str, Any]:
    """What stands in the file of an answer: what depends on the events and the definition alone."""
    return {
        "format": FORMAT,
        "projection": identity.name,
        "version": identity.version,
        "definition_hash": identity.definition_hash,
        "parameters": dict(identity.parameters),
        "position": position,
        "events": events,
        "failed_casts": dict(failed_casts),
    }


@dataclass(frozen=True)
class FoundLineage:
    """The lineage of a file or a folder of parts, and whether its bytes are those that were written.

    `lineage` is all that is known, or, where it does not match, what the file itself says. `matches` is None where
    nothing stands beside it. `sha256` is what it has now: of a folder, over the list of its parts.
    """

    path: Path
    lineage: Mapping[str, Any]
    sha256: str
    matches: bool | None


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def sidecar(folder: Path, name: str) -> Path:
    """The file beside a read model."""
    return folder / f"{name}.lineage.json"


def _pending(folder: Path, name: str) -> Path:
    return folder / f"{name}.lineage.json.next"


def names_beside(name: str) -> tuple[str, str]:
    """The names of the files that may stand beside a read model."""
    return sidecar(Path(), name).name, _pending(Path(), name).name


def announce(files: Files, folder: Path, name: str, beside: Mapping[str, Any]) -> None:
    """Write down what the read model is about to be."""
    said = {**beside, CHECKSUM: checksum_of(beside)}
    text = json.dumps(said, sort_keys=True, indent=2, ensure_ascii=False, default=str) + "\n"
    files.write_whole(_pending(folder, name), text.encode())


def confirm(files: Files, folder: Path, name: str) -> None:
    """What was announced is there now."""
    with translated("rename", sidecar(folder, name)):
        files.replace(_pending(folder, name), sidecar(folder, name))
    files.sync_folder(folder)


def beside(files: Files, folder: Path, name: str) -> list[dict[str, Any]]:
    """What stands beside a read model: one of these describes it. Damaged, or of another format: empty."""
    found = []
    for path in (sidecar(folder, name), _pending(folder, name)):
        try:
            value = json.loads(files.read_whole(path))
            found.append(value if _is_whole(value) else {})
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, RecursionError):
            found.append({})
    return found


def _is_whole(value: Any) -> bool:
    """Whether what stands beside a read model is as it was written; its checksum is taken out."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return False
    if value.pop(CHECKSUM, None) not in (checksum_of(value), None):  # earlier ones have none
        return False
    output = value.get("output")
    if not isinstance(output, dict) or not isinstance(value.get("parameters"), dict):
        return False
    parts = output.get("parts", [])
    return (
        isinstance(parts, list)
        and all(isinstance(part, dict) for part in parts)
        and isinstance(output.get("sha256"), str)
        and type(output.get("rows")) is int
    )


def digest_of_parts(parts: Sequence[tuple[str, str]]) -> str:
    """The SHA-256 of a folder: over its parts' (path, SHA-256), as `sha256sum` prints them."""
    return hashlib.sha256("".join(f"{sha256}  {path}\n" for path, sha256 in sorted(parts)).encode()).hexdigest()


def read_lineage(path: Path) -> FoundLineage:
    """The lineage of a Parquet file, a folder of parts, or one of these parts.

    Raises InputError if there is none: no file, not Parquet, or not written by evtool.
    """
    files = Files()
    if path.is_dir():
        return _of_folder(files, path)
    in_file, sha256 = _inside(files, path)
    whole = [(each, each["output"].get("sha256")) for each in _described(files, path.parent, in_file)]
    parts = [
        (each, part.get("sha256"))
        for each in _described(files, path.absolute().parent.parent.parent, in_file)
        for part in each["output"].get("parts", ())
        if part.get("path") == f"{path.absolute().parent.name}/{path.name}"
    ]
    return _found(path, in_file, sha256, [*whole, *parts])


def _of_folder(files: Files, path: Path) -> FoundLineage:
    parts = sorted(path.glob(f"*/{PART_FILE}"))
    if not parts:
        raise InputError(f"{path} is not the folder of a read model's parts", "Name a Parquet file in it.")
    inside = [_inside(files, part) for part in parts]
    sha256 = digest_of_parts(
        [(part.relative_to(path).as_posix(), of) for part, (_, of) in zip(parts, inside, strict=True)]
    )
    described = _described(files, path.absolute().parent, inside[0][0])
    return _found(path, inside[0][0], sha256, [(each, each["output"].get("sha256")) for each in described])


def _described(files: Files, folder: Path, in_file: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each or {"output": {}} for each in beside(files, folder, str(in_file.get("projection")))]


def _found(
    path: Path, in_file: Mapping[str, Any], sha256: str, described: list[tuple[dict[str, Any], str | None]]
) -> FoundLineage:
    for each, expected in described:
        if expected == sha256:
            return FoundLineage(path, each, sha256, True)
    return FoundLineage(path, in_file, sha256, False if described else None)


def _inside(files: Files, path: Path) -> tuple[dict[str, Any], str]:
    """The lineage inside a Parquet file, and the SHA-256 of its bytes."""
    import pyarrow as pa  # which an answer that is there needs not
    import pyarrow.parquet as pq

    try:
        data = files.map(path)
        metadata = pq.read_metadata(pa.BufferReader(pa.py_buffer(data))).metadata or {}
        value = json.loads(metadata[LINEAGE_KEY.encode()])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no file {path}", "Name a Parquet file that evtool wrote.") from error
    except (pa.ArrowException, OSError) as error:  # of Arrow, too: an OSError without a number
        raise InputError(f"{path} is no Parquet file, or is damaged", _MADE_AGAIN) from error
    except KeyError as error:
        raise InputError(f"{path} says nothing of its lineage", "Only files that evtool wrote do.") from error
    except ValueError as error:
        raise InputError(f"the lineage in {path} is damaged", _MADE_AGAIN) from error
    return value, hashlib.sha256(data).hexdigest()
