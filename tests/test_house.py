"""The rules of the house, read from the source tree: what is written down about style is enforced here."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

LINES_MAX = 500

# A module imports from its own package and from those above it in this list, never from those below. Packages
# on one line do not know each other. An object store stands below the log: whoever keeps parts of one somewhere
# else (backups, and tiers of an archive) is handed it, and it knows nothing of what it keeps.
LAYERS = (
    ("errors",),
    ("location", "quantities"),
    ("config",),
    ("event",),
    ("batch",),
    ("files",),
    ("timestamps",),
    ("timecolumns", "jsontext", "uuids", "parallel", "output", "objectstore"),
    ("envelope", "ndjson"),
    ("schemas",),
    ("log",),
    ("ingest",),
    ("replay",),
    ("projections",),
    ("lifecycle", "serve", "kafka", "clickhouse", "flink"),
    ("cli",),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
STANDALONE = {"shop"}  # import nothing of evtool
ENTRANCES = {"", "__main__"}  # the package root and `python -m evtool` may import everything

BAG_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "tools"}
UNFINISHED = re.compile(r"\b(T[O]DO|FIX[M]E|XX[X])\b")  # the brackets keep this line from matching itself
TEXT_SUFFIXES = {"", ".py", ".sh", ".md", ".toml"}
TEXT_FILES = ("*", ".ci/*", "evtool/**/*", "scripts/*", "segments/*.md", "tests/*")

HEAVY_MODULES = {"polars", "pyarrow", "numpy", "duckdb", "chdb", "jsonschema_rs"}

SOURCES = sorted((ROOT / "evtool").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """The dotted name below the package root, which itself is the empty name."""
    parts = path.relative_to(ROOT / "evtool").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


TREES = {module_name(path): ast.parse(path.read_bytes()) for path in SOURCES}
PACKAGES = {module_name(path) for path in SOURCES if path.name == "__init__.py"}


def imports(module: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Names below the package root that the nodes import; the empty name for the root itself."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "evtool":
                yield known_module(name.removeprefix("evtool").removeprefix("."))


def absolute(module: str, node: ast.ImportFrom) -> str:
    """Where a `from ... import` imports from, dots resolved."""
    if not node.level:
        return node.module or ""
    package = ["evtool", *filter(None, module.split("."))]
    kept = package[: len(package) - node.level + (module in PACKAGES)]
    return ".".join([*kept, *filter(None, [node.module])])


def known_module(name: str) -> str:
    """The longest leading part that is a module of the tree: the rest is a name inside of it."""
    while name and name not in TREES:
        name = name.rpartition(".")[0]
    return name


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those inside functions and under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from run_at_import(child)


def may_import(importer: str, imported: str) -> bool:
    if importer in ENTRANCES:
        return True
    if importer in STANDALONE or not imported:
        return False
    own, other = importer.split(".")[0], imported.split(".")[0]
    return own == other or LAYER_OF[other] < LAYER_OF[own]


def text_files() -> Iterator[Path]:
    found = (path for pattern in TEXT_FILES for path in ROOT.glob(pattern))
    return (path for path in found if path.is_file() and path.suffix in TEXT_SUFFIXES)


def commands(command: Any, words: tuple[str, ...] = ("evtool",)) -> Iterator[tuple[str, Any]]:
    """Every command of the command line with its full name, groups walked."""
    children = getattr(command, "commands", {})
    if not children:
        yield " ".join(words), command
    for name, child in children.items():
        yield from commands(child, (*words, name))


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=relative)
def test_a_file_is_short_enough_to_read(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=relative)
def test_every_module_says_what_it_is_for(path: Path):
    assert ast.get_docstring(ast.parse(path.read_bytes()))


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=relative)
def test_no_module_is_a_bag(path: Path):
    assert not BAG_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


def test_every_module_has_its_place():
    placed = STANDALONE | ENTRANCES | set(LAYER_OF)
    assert {name.split(".")[0] for name in TREES} <= placed, "a new one goes into LAYERS"


@pytest.mark.parametrize("module", TREES, ids=lambda name: name or "evtool")
def test_imports_point_one_way(module: str):
    imported = set(imports(module, ast.walk(TREES[module])))
    assert not [name or "evtool" for name in sorted(imported) if not may_import(module, name)]


def test_nothing_imports_in_a_circle():
    graph = {name: set(imports(name, run_at_import(tree))) - {name} for name, tree in TREES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_is_left_unfinished():
    texts = {relative(path): path.read_text(encoding="utf-8") for path in text_files()}
    assert not [name for name, text in texts.items() if UNFINISHED.search(text)]


def test_every_command_has_help_and_is_in_the_readme():
    from typer.main import get_command

    from evtool.cli.app import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = dict(commands(get_command(app)))
    assert found
    assert not [name for name, command in found.items() if not command.help]
    assert not [name for name in found if not re.search(rf"\b{re.escape(name)}\b", readme)]


def test_the_command_line_starts_without_the_heavy_modules():
    code = (
        "import json, sys; from typer.main import get_command; from evtool.cli.app import app; "
        "found = dict(get_command(app).commands); print(json.dumps(sorted(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    loaded = set(json.loads(output))
    assert {"evtool.cli.project", "evtool.cli.deadletters"} < loaded  # as for --help, which takes all commands
    assert not HEAVY_MODULES & loaded
