"""`evtool schema`: add, list, show, check, diff."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.lifecycle.conformance import Report
    from evtool.log.log import Log
    from evtool.schemas.compatibility import Conflict
    from evtool.schemas.proposal import Proposal
    from evtool.schemas.record import Schema
    from evtool.schemas.structure import Finding

schema = typer.Typer(name="schema", help="What payloads must be, by event type and version.", no_args_is_help=True)

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="A JSON Schema; - is standard input.")]
TypeOption = Annotated[str, typer.Option("--type", metavar="T", help="The event type that it is for.")]
TypeArgument = Annotated[str, typer.Argument(metavar="TYPE", help="An event type.")]
VersionOption = Annotated[
    int | None, typer.Option(metavar="N", help="The schema_version that it is for. (default: the next one)")
]
CompatibilityOption = Annotated[
    str | None,
    typer.Option(metavar="MODE", help="none, backward, forward or full, the last three also with _transitive."),
]
UpcastOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Steps (TOML or JSON) that make a payload of the version before one of it."),
]


@schema.command()
def add(
    file: FileArgument,
    event_type: TypeOption,
    version: VersionOption = None,
    compatibility: CompatibilityOption = None,
    upcast: UpcastOption = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a schema as the next version of an event type, if it keeps the type's compatibility.

    The mode is that of the version before; for a new type it is the one of evtool.toml, or backward. Adding the
    same schema again changes nothing.
    """
    from evtool.cli.audited import audited

    with _opened(log, read_only=False) as opened, audited(opened.folder, "schema add") as entry:
        proposal = _proposal(opened, file, event_type, version, compatibility, upcast, keep=True)
        entry.counts["schemas"] = int(not proposal.is_known)
        entry.details["schema"] = proposal.schema.name
    if as_json:
        render.print_json(_facts(proposal.schema) | {"added": not proposal.is_known})
    elif proposal.is_known:
        render.say(f"{proposal.schema.name} is registered already, with this schema")
    else:
        render.say(f"registered {proposal.schema.name}, compatibility {proposal.schema.compatibility}")


@schema.command("list")
def list_all(log: LogOption = None, as_json: JsonOption = False) -> None:
    """List the registered schemas."""
    with _opened(log) as opened:
        found = opened.schemas.current().registered
    if as_json:
        render.print_json({"schemas": [_facts(entry) for entry in found]})
        return
    columns = ("event type", "version", "compatibility", "upcast steps", "registered", "digest")
    rows = (
        (
            *(entry.event_type, str(entry.version), entry.compatibility, str(len(entry.steps))),
            *(entry.registered_at[:19] + "Z", entry.document.digest),
        )
        for entry in found
    )
    render.print_table(columns, rows)


@schema.command()
def show(
    event_type: TypeArgument,
    version: Annotated[int | None, typer.Option(metavar="N", help="Which one. (default: the latest)")] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a registered schema as it was added, and on standard error what else is known of it."""
    with _opened(log) as opened:
        found = _registered(opened, event_type, version)
    if as_json:
        render.print_json(_facts(found) | {"schema": found.text})
        return
    render.say(f"{found.name}, compatibility {found.compatibility}, registered {found.registered_at}")
    for step in found.steps:
        render.say(f"upcast: {step}")
    sys.stdout.write(found.text if found.text.endswith("\n") else found.text + "\n")


@schema.command()
def check(
    file: FileArgument,
    event_type: TypeOption,
    version: VersionOption = None,
    compatibility: CompatibilityOption = None,
    upcast: UpcastOption = None,
    from_version: Annotated[
        int, typer.Option(metavar="N", min=1, help="Leave out events that are stored in an earlier version.")
    ] = 1,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a schema could be added, and how many stored events it would refuse. Writes nothing.

    Events of the type up to the schema's version count, as upcasters make them. The exit code is 6 when it
    could not be added, or an event would be refused.
    """
    from evtool.errors import SchemaError
    from evtool.lifecycle import conformance

    with _opened(log) as opened:
        proposal = _proposal(opened, file, event_type, version, compatibility, upcast, keep=False)
        with progress.shown("check", wanted=not as_json) as tell:
            report = conformance.check(opened, proposal.schema, from_version, lambda events: tell(events, 0))
    if as_json:
        render.print_json(_checked(proposal, report))
    else:
        _print_checked(proposal, report)
    if proposal.conflicts or report.refused:
        raise typer.Exit(SchemaError.exit_code)


@schema.command()
def diff(
    event_type: TypeArgument,
    old: Annotated[
        int | None, typer.Argument(metavar="[OLD]", help="A version. (default: the last but one)")
    ] = None,
    new: Annotated[int | None, typer.Argument(metavar="[NEW]", help="A version. (default: the latest)")] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what changed between two versions of a schema, and which compatibility that keeps."""
    from evtool.schemas import compatibility as rules
    from evtool.schemas.differences import differences

    with _opened(log) as opened:
        schemas = opened.schemas.current()
        later = _registered(opened, event_type, new)
        earlier = _registered(opened, event_type, later.version - 1 if old is None else old)
    steps = schemas.steps_between(event_type, earlier.version, later.version)
    changes = list(differences(earlier.document.value, later.document.value))
    backward = rules.backward(earlier, later.document, later.version, steps)
    forward = rules.forward(earlier, later.document, later.version)
    modes = {"backward": backward, "forward": forward, "full": [*backward, *forward]}
    if as_json:
        facts = [{name: _plain(value) for name, value in vars(change).items()} for change in changes]
        broken = {mode: [_finding(found) for found in findings] for mode, findings in modes.items()}
        versions = {"event_type": event_type, "old": earlier.version, "new": later.version}
        render.print_json(versions | {"changes": facts, "upcast": list(map(str, steps)), "broken": broken})
        return
    for change in changes:
        texts = [f"{_short(change.old)}", f"{_short(change.new)}"]
        shown = {"added": texts[1:], "removed": texts[:1], "changed": texts}[change.change]
        sys.stdout.write(f"{change.change:8} {change.path or 'the root'}: {' -> '.join(shown)}\n")
    for step in steps:
        sys.stdout.write(f"upcast   {step}\n")
    for mode, findings in modes.items():
        sys.stdout.write(f"{mode:8} {'broken' if findings else 'kept'}\n")
        for found in findings if mode != "full" else ():
            sys.stdout.write(f"         {found.rule} at {found.path or 'the root'}: {found.message}\n")


def _opened(log: Path | None, read_only: bool = True) -> Log:
    from evtool import config as configuration
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    return open_log(config.log_path, read_only=read_only, config=config)


def _proposal(
    opened: Log,
    file: str,
    event_type: str,
    version: int | None,
    compatibility: str | None,
    upcast: Path | None,
    keep: bool,
) -> Proposal:
    """What the flags of `add` and `check` ask for, added or only looked at."""
    from evtool import config as configuration
    from evtool.schemas import document, steps

    default = configuration.load().schemas
    mode: Any = configuration.with_flags(default, compatibility=compatibility).compatibility
    parsed = document.parse(_read(file), "standard input" if file == "-" else file)
    taken = steps.parse(_read(str(upcast)), str(upcast)) if upcast else ()
    work = opened.schemas.add if keep else opened.schemas.propose
    return work(event_type, parsed, version, mode if compatibility else None, taken, default.compatibility)


def _read(file: str) -> bytes:
    from evtool.errors import InputError

    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def _registered(opened: Log, event_type: str, version: int | None) -> Schema:
    from evtool.errors import SchemaError

    schemas = opened.schemas.current()
    versions = [entry.version for entry in schemas.versions(event_type)]
    found = schemas.get(event_type, versions[-1] if versions and version is None else version or 0)
    if found is None:
        which = f"version {version} of {event_type!r}" if versions else f"the event type {event_type!r}"
        hint = f"It has {', '.join(map(str, versions))}." if versions else "See `evtool schema list`."
        raise SchemaError(f"there is no schema for {which}", hint)
    return found


def _facts(entry: Schema) -> dict[str, Any]:
    return {
        "event_type": entry.event_type,
        "schema_version": entry.version,
        "compatibility": entry.compatibility,
        "registered_at": entry.registered_at,
        "digest": entry.document.digest,
        "upcast": [str(step) for step in entry.steps],
    }


def _checked(proposal: Proposal, report: Report) -> dict[str, Any]:
    return {
        "event_type": proposal.schema.event_type,
        "schema_version": proposal.schema.version,
        "registered": proposal.is_known,
        "compatibility": proposal.schema.compatibility,
        "conflicts": [_conflict(conflict) for conflict in proposal.conflicts],
        "events": report.events,
        "refused": report.refused,
        "versions": {str(version): counts for version, counts in sorted(report.versions.items())},
        "examples": [vars(example) for example in report.examples],
    }


def _print_checked(proposal: Proposal, report: Report) -> None:
    entry = proposal.schema
    state = "registered already" if proposal.is_known else "broken" if proposal.conflicts else "kept"
    sys.stdout.write(f"schema         {entry.name}\ncompatibility  {entry.compatibility}: {state}\n")
    for conflict in proposal.conflicts:
        sys.stdout.write(f"  {conflict}\n")
    sys.stdout.write(f"events         {report.events:,}, of which {report.refused:,} would be refused\n")
    for version, counts in sorted(report.versions.items()):
        sys.stdout.write(f"  stored as version {version}: {counts['events']:,}, refused {counts['refused']:,}\n")
    for example in report.examples:
        where = f"@{example.position} {example.path or 'the payload'}"
        sys.stdout.write(f"  {where}: {example.message} (rule {example.rule or 'none'})\n")


def _conflict(conflict: Conflict) -> dict[str, Any]:
    return {"direction": conflict.direction, "version": conflict.version} | _finding(conflict.finding)


def _finding(found: Finding) -> dict[str, Any]:
    return {"rule": found.rule, "path": found.path, "message": found.message}


def _plain(value: Any) -> Any:
    import json

    from evtool.schemas import steps

    return json.loads(steps.encode(value))


def _short(value: Any) -> str:
    from evtool.schemas import steps

    text = steps.encode(value).decode()
    return text if len(text) <= 100 else text[:97] + "..."
