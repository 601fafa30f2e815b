"""`evtool projections`: which definitions there are, what they say, and which version of a read model serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evtool.cli import render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.projections.definition import Definition
    from evtool.projections.inventory import Kept

app = typer.Typer(help="Show, check and make definitions of projections.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A definition by name or path.")]


@app.command("list")
def list_(log: LogOption = None, as_json: JsonOption = False) -> None:
    """List all definitions: built in and your own, with the versions that have a read model."""
    from evtool import config as configuration
    from evtool.errors import EvtoolError
    from evtool.projections import catalogue, parameters, places

    config = configuration.load(log)
    rows: list[dict[str, Any]] = []
    definitions: list[Definition] = []
    failed: EvtoolError | None = None
    for entry in catalogue.entries(config.definitions_path).values():
        try:
            found = entry.read()
        except EvtoolError as error:  # one that is wrong does not hide the others
            render.print_error(error)
            failed = failed or error
            continue
        definitions.append(found)
        rows.append(
            {
                "name": entry.name,
                "version": found.version,
                "kind": "aggregate" if found.kind == "measures" else found.kind,
                "from": entry.origin,
                "read_models": list(places.versions(config.read_models_path, entry.name)),
                "serves": places.promoted(config.read_models_path, entry.name),
                "promoted": places.is_promoted(config.read_models_path, entry.name),
                "description": found.description,
            }
        )
    if as_json:
        render.print_json({"projections": rows})
    else:
        _print_listed(rows)
    if not failed:
        parameters.check_names(definitions, config.projections.parameters)
    if failed:
        raise typer.Exit(failed.exit_code)


def _print_listed(rows: list[dict[str, Any]]) -> None:
    names = ("name", "version", "kind", "from")
    render.print_columns(
        (*names, "read models", "description"),
        [[*(str(row[name]) for name in names), _versions(row), row["description"]] for row in rows],
        (True, False, True, True, True, True),
    )


def _versions(row: dict[str, Any]) -> str:
    return ", ".join(f"v{n}" + ("*" if n == row["serves"] else "") for n in row["read_models"]) or "-"


@app.command()
def show(projection: NameArgument, as_json: JsonOption = False) -> None:
    """Print a definition as it is written, and its parameters."""
    from evtool import config as configuration
    from evtool.projections import catalogue

    found = catalogue.find(projection, configuration.load().definitions_path)
    if as_json:
        render.print_json({"name": found.name, "version": found.version, "hash": found.hash, **_parameters(found)})
        return
    typer.echo(found.text.rstrip())


def _parameters(found: Definition) -> dict[str, Any]:
    return {
        "parameters": {
            name: {"default": p.default, "expression": p.is_expression, "choices": list(p.choices), "help": p.help}
            for name, p in found.parameters.items()
        }
    }


@app.command()
def validate(projection: NameArgument, as_json: JsonOption = False) -> None:
    """Check a definition: every key, every expression and every type in it."""
    from evtool import config as configuration
    from evtool.projections import catalogue, kinds, parameters

    config = configuration.load()
    found = catalogue.find(projection, config.definitions_path)
    values = parameters.values(found, parameters.configured(found, config.projections.parameters))
    plan = kinds.compile(found, values)
    schema = {name: str(kind) for name, kind in plan.read_model(None).schema.items()}
    if as_json:
        render.print_json({"name": found.name, "version": found.version, "hash": found.hash, "columns": schema})
        return
    render.say(f"{found.origin}: {found.name} version {found.version} is sound; its columns:")
    render.print_columns(("column", "type"), list(schema.items()), (True, True))


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, -, _ and .")],
    kind: Annotated[
        Literal["aggregate", "funnel", "retention", "sessions", "score"],
        typer.Option("--kind", metavar="KIND", help="aggregate, funnel, retention, sessions or score."),
    ] = "aggregate",
) -> None:
    """Write a definition to begin with, into the folder of your own ones."""
    from evtool import config as configuration
    from evtool.errors import ConfigError
    from evtool.files import Files
    from evtool.projections import catalogue
    from evtool.projections.definition import NAME

    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a projection", "Lower-case letters, digits, '-', '_' and '.'.")
    folder = configuration.load().definitions_path
    if name in catalogue.entries(None):
        raise ConfigError(
            f"{name} is built in", "Choose another name; `evtool projections show` prints it to begin with."
        )
    path = folder / f"{name}.toml"
    files = Files()
    files.make_folder(folder)
    try:
        files.create_whole(path, catalogue.template(kind, name).encode())
    except FileExistsError as error:
        raise ConfigError(f"there is {path} already", "Choose another name.") from error
    render.say(f"wrote {path}; check it with `evtool projections validate {name}`")


@app.command()
def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A projection.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="A version that has a read model.", min=1)],
    log: LogOption = None,
) -> None:
    """Let a version of a read model be the one that serves; and back again."""
    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.files import Files
    from evtool.projections import mending, places

    config = configuration.load(log)
    with audited(config.log_path, "projections promote") as entry:
        places.promote(Files(), config.read_models_path, name, version)
        entry.counts["read_models"] = 1
        entry.details["read_model"] = f"{name}/v{version}"
    render.say(f"{name}: version {version} serves")
    if not mending.is_refreshed(config, name, version):
        render.say("  no refresh changes it any more: there is no definition of this version")


@app.command()
def kept(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one projection only.")] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the read models that are kept: of each version, and of other parameters."""
    from dataclasses import asdict

    from evtool import config as configuration
    from evtool.projections import inventory

    config = configuration.load(log)
    found = inventory.kept(config.read_models_path, name)
    if as_json:
        render.print_json({"read_models": [asdict(each) | {"folder": str(each.folder)} for each in found]})
    elif not found:
        render.say("no read model is kept")
    else:
        columns = ("read model", "serves", "made", "position", "bytes", "other parameters")
        render.print_columns(
            columns, map(_kept_row, found, _changed(config, found)), (True, True, True, False, False, True)
        )


def _changed(config: Config, found: list[Kept]) -> Iterator[dict[str, Any]]:
    """The parameters of each in which it differs from the one that is as configured, or would be."""
    from evtool.projections import mending

    configured: dict[str, dict[str, Any]] = {}
    for model in found:  # the configured one comes first
        values = model.lineage.get("parameters") or {}
        main = f"{model.name}/v{model.version}"
        if model.id == main:
            configured[main] = values
        elif main not in configured:
            configured[main] = mending.configured(config, model.name)
        yield {key: value for key, value in values.items() if configured[main].get(key) != value}


def _kept_row(model: Kept, changed: dict[str, Any]) -> list[str]:
    said = model.lineage
    return [
        model.id,
        "yes" if model.serves else "-",
        str(said.get("made_at", "-"))[:19],
        f"{said['position']:,}" if isinstance(said.get("position"), int) else "-",
        f"{model.bytes:,}",
        render.printable(", ".join(f"{key}={_written(value)}" for key, value in changed.items())) or "-",
    ]


def _written(value: Any) -> str:
    return " > ".join(map(str, value)) if isinstance(value, list) else str(value)


@app.command()
def drop(
    ids: Annotated[
        list[str], typer.Argument(metavar="READ-MODEL...", help="As `projections kept` names them: orders/v1.")
    ],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove read models with their state. The log stays, and can give them again."""
    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.files import Files
    from evtool.projections import inventory

    config = configuration.load(log)
    root = config.read_models_path
    found = {each.id: each for each in (inventory.find(root, wanted) for wanted in ids)}
    with audited(config.log_path, "projections drop") as entry:
        entry.counts["read_models"] = len(found)
        entry.details["read_models"] = ", ".join(found)
        entry.begin()
        for model in found.values():
            inventory.drop(Files(), root, model)
    if as_json:
        render.print_json({"dropped": list(found)})
    else:
        render.say(f"dropped {render.count(len(found), 'read model')}")
