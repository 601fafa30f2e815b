"""README.md and evtool.toml.example say what is so: their examples run, their tables are those of the code."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from foreign_lines import GITHUB

from evtool import config as configuration
from evtool.cli import projections
from evtool.config import (
    ArchiveConfig,
    BackupConfig,
    Config,
    IngestConfig,
    LogConfig,
    NightlyConfig,
    RetainConfig,
    SchemasConfig,
    SnapshotsConfig,
)
from evtool.envelope import REASONS
from evtool.errors import exit_codes
from evtool.event import STORED_SCHEMA
from evtool.ingest import formats
from evtool.projections import catalogue, kinds, parameters
from evtool.projections.kinds import MODES
from evtool.projections.language import functions

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "evtool.toml.example"

ANY_LINES = "…"
# What differs from run to run or from one version of a codec to the next, and what stands for it.
VARIABLE = (
    (r'("recorded_at":|"time":)"[^"]+"', r'\1"(time)"'),
    (r'("event_type":"Noted","timestamp":)"[^"]+"', r'\1"(time)"'),
    (r"^(recorded +).*", r"\1(times)"),
    (r"\([0-9a-f]{32}\)", "(id)"),
    (r"^[0-9a-f]{16} +\S+Z ", "(id) (time) "),
    (r"in [\d.,]+ s, [\d,]+ events/s", "in (time)"),
    (r"[\d.,]+ (?:[KM]iB|bytes)\b", "(size)"),
    (r"\b\d{3},\d{3} ", "(bytes) "),
    (r" +", " "),
)


def blocks(language: str) -> list[str]:
    """The fenced blocks of README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def table(first_column: str) -> dict[str, str]:
    """The first two columns of README's table that begins with this heading."""
    found = re.search(rf"^\| {first_column} \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].splitlines()]
    return {row[0].strip().strip("`"): row[1].strip() for row in rows}


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def masked(line: str) -> str:
    for pattern, stand_in in VARIABLE:
        line = re.sub(pattern, stand_in, line)
    return line.rstrip()


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EVTOOL_LOG": "segments"}  # the default, named as without a configuration
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_the_tour_prints_what_readme_shows(tmp_path: Path):
    # However slow the machine is, what comes together is one batch.
    (tmp_path / configuration.FILE_NAME).write_text('[ingest]\nmax_latency_ms = "1h"\n', encoding="utf-8")
    for command, shown in [pair for block in blocks("console") for pair in commands(block)]:
        done = run(["bash", "-o", "pipefail", "-c", command], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed = [masked(line) for line in done.stdout.splitlines()]
        wanted = [masked(line) for line in shown]
        if wanted and wanted[-1] == ANY_LINES:
            wanted.pop()
            printed = printed[: len(wanted)]
        assert printed == wanted, command


def test_the_python_example_prints_what_readme_shows(tmp_path: Path):
    (code,) = (block for block in blocks("python") if block.startswith("import evtool"))
    (shown,) = blocks("text")
    done = run([sys.executable, "-c", code], tmp_path)
    assert (done.returncode, done.stdout) == (0, shown)


def test_readme_begins_with_the_two_commands():
    assert re.findall(r"^\./scripts/\w+", blocks("sh")[0], re.MULTILINE) == ["./scripts/demo", "./scripts/test"]
    assert README.index("./scripts/demo") < README.index("./scripts/test") < 120


def test_links_lead_somewhere():
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "segments/README.md")]
    for page in pages:
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
        assert not [target for target in targets if not (page.parent / target).exists()], page


def test_the_fields_of_an_event_are_in_the_table():
    assert set(table("field")) == set(STORED_SCHEMA)


def test_replay_writes_the_keys_in_the_documented_order(tmp_path: Path):
    sentence = re.search(r"Keys come in the order (.*?) \(absent", README, re.DOTALL)
    line = next(
        line for block in blocks("console") for line in block.splitlines() if line.startswith('{"position"')
    )
    assert sentence is not None
    order = re.findall(r"`(\w+)`", sentence[1])
    assert set(order) == set(STORED_SCHEMA)
    assert sorted(order, key=lambda key: line.index(f'"{key}":')) == order


def test_the_reasons_of_dead_letters_are_those_of_the_code():
    assert table("reason") == REASONS


def test_the_exit_codes_are_those_of_the_code():
    documented = {int(code): meaning for code, meaning in table("code").items()}
    of_errors = exit_codes()
    assert documented.keys() == of_errors.keys() | {0, 2, 130, 141, 143}
    own = of_errors.keys() - {1}  # which the base class has, and no message is of
    assert {code: documented[code] for code in own} == {code: of_errors[code] for code in own}


def test_the_built_in_projections_have_the_documented_columns_and_parameters():
    found = re.search(r"^\| built in \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert found is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    assert {row[0].strip("`") for row in rows} == set(catalogue.entries(None))
    for name, columns, documented in rows:
        definition = catalogue.find(name.strip("`"), None)
        plan = kinds.compile(definition, parameters.values(definition))
        assert columns.split(", ") == plan.read_model(None).columns, name
        named = set(re.findall(r"`(\w+)`", documented))
        assert named | {"where", "timezone", "grain"} == set(definition.parameters), name


def test_the_definition_in_readme_is_sound(tmp_path: Path):
    (text,) = (block for block in blocks("toml") if block.startswith("name = ") and "[measures]" in block)
    (tmp_path / "refunds.toml").write_text(text, encoding="utf-8")
    event = {"event_id": "1", "source_id": "s", "stream_id": "a", "event_type": "ItemReturned"}
    payload = {"reason": "Late", "amount": "1.50", "user_id": "u", "method": "card"}
    (tmp_path / "one.ndjson").write_text(
        json.dumps(event | {"timestamp": "2026-01-01T00:00:00Z", "payload": payload}) + "\n", encoding="utf-8"
    )
    command = "evtool ingest one.ndjson 2>/dev/null && evtool project refunds.toml --format csv"
    done = run(["bash", "-c", command], tmp_path)
    assert done.stdout.splitlines()[-2:] == [
        "day,reason,refunds,users,amount,by_card",
        "2026-01-01,late,1,1,1.50,1.0",
    ]


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("funnel", "step,name,actors,conversion,conversion_total"),
        ("retention", "day,offset,actors,retention"),
        ("sessions", "actor,started_at,ended_at,events,duration_ms"),
        ("score", "user_id,score"),
    ],
)
def test_the_example_of_each_other_kind_in_readme_gives_rows(tmp_path: Path, kind: str, columns: str):
    (text,) = (block for block in blocks("toml") if re.search(rf"^\[{kind}\b", block, re.MULTILINE))
    (tmp_path / "example.toml").write_text(text, encoding="utf-8")
    command = (
        "python -m evtool.shop --events 2000 --seed 1 | evtool ingest 2>/dev/null && evtool project example.toml"
    )
    heading, *rows = run(["bash", "-c", f"{command} --format csv"], tmp_path).stdout.splitlines()
    assert heading == columns
    assert rows
    assert all(int(row.split(",")[2]) > 0 for row in rows if kind == "funnel")
    section = README[README.index("### Other kinds of projections") : README.index("### Read models")]
    assert all(f"`{word}`" in section for word in (*MODES, "default"))


def test_every_command_of_projections_is_in_the_table():
    documented = set(re.findall(r"^\| `evtool projections (\w+)", README, re.MULTILINE))
    assert documented == {
        command.name or getattr(command.callback, "__name__", "")
        for command in projections.app.registered_commands
    }


def test_every_bound_in_the_table_is_understood(tmp_path: Path):
    run([sys.executable, "-m", "evtool.shop", "--events", "200", "--out", "shop.ndjson"], tmp_path)
    run(["evtool", "ingest", "shop.ndjson"], tmp_path)
    bounds = [text for cell in table("bound") for text in re.findall(r"[^`, ]+", cell)]
    assert len(bounds) == 7
    for bound in bounds:
        done = run(["evtool", "replay", "--from", bound, "--limit", "1"], tmp_path)
        is_unknown = bound.startswith("id:") and done.returncode == 16
        assert done.returncode == 0 or is_unknown, f"{bound}\n{done.stdout}"


def test_the_example_configuration_is_the_default(tmp_path: Path):
    copy = tmp_path / configuration.FILE_NAME
    copy.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    default = Config()
    wanted = replace(default, log_path=tmp_path / default.log_path, file=copy)
    assert configuration.read_file(copy) == wanted


@pytest.mark.parametrize(
    ("section", "kind", "more"),
    [
        ("log", LogConfig, {"path"}),
        ("ingest", IngestConfig, set()),
        ("schemas", SchemasConfig, set()),
        ("snapshots", SnapshotsConfig, set()),
        ("nightly", NightlyConfig, set()),
        ("retain", RetainConfig, set()),
        ("backup", BackupConfig, set()),
        ("archive", ArchiveConfig, set()),
    ],
    ids=["log", "ingest", "schemas", "snapshots", "nightly", "retain", "backup", "archive"],
)
def test_the_example_configuration_has_every_key_and_says_what_it_is(section: str, kind: type, more: set[str]):
    text = EXAMPLE.read_text(encoding="utf-8").partition(f"[{section}]\n")[2].partition("\n[")[0]
    lines = text.strip().splitlines()
    keys = {}
    for comment, line in zip(lines[::2], lines[1::2], strict=True):
        assert comment.startswith("# "), comment
        key = re.fullmatch(r"(# )?(\w+) = .+", line)
        assert key is not None, line
        keys[key[2]] = key[1] is None
    own = {item.name for item in fields(kind)} - {"fields", "types"}  # which are tables of their own
    assert set(keys) == own | more
    without_default = {name for name in own if getattr(kind(), name) is None}
    assert {key for key, is_set in keys.items() if not is_set} == without_default


def test_a_commented_key_is_a_valid_one(tmp_path: Path):
    copy = tmp_path / configuration.FILE_NAME
    text = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    copy.write_text(text, encoding="utf-8")
    found = configuration.read_file(copy).ingest
    assert (found.source, set(found.fields)) == ("web", {"event_id", "stream_id", "event_type", "payload"})
    assert formats.parser(found).check(b"") is None


def test_the_mapping_in_readme_loads_github_archive(tmp_path: Path):
    text = blocks("toml")[0]
    (tmp_path / configuration.FILE_NAME).write_text(text, encoding="utf-8")
    (tmp_path / "2026-01-01-0.json.gz").write_bytes(gzip.compress("".join(GITHUB).encode()))
    done = run(["bash", "-c", "evtool ingest 2026-01-01-*.json.gz && evtool replay"], tmp_path)
    said, *lines = done.stdout.splitlines()
    assert said.startswith(f"accepted {len(GITHUB)} events ")
    events = [json.loads(line) for line in lines]
    assert [event["payload"] for event in events] == [json.loads(line) for line in GITHUB]
    assert [event["stream_id"] for event in events] == [json.loads(line)["repo"]["name"] for line in GITHUB]


def test_the_formats_in_the_table_are_those_of_the_configuration():
    assert tuple(table("`--format`")) == get_args(configuration.Format)


def test_the_layout_in_contributing_names_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = text[text.index("\nevtool/\n") : text.index("\nsegments/README.md ")]
    named, folders = set(), {0: Path("evtool")}
    for line in drawn.strip().splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        entry = line.split()[0]
        if entry.endswith("/"):
            folders[depth] = folders[depth - 1] / entry.rstrip("/")
        named |= {folders[depth - 1] / word for word in line.split() if word.endswith(".py")}
    present = {path.relative_to(ROOT) for path in (ROOT / "evtool").rglob("*.py") if path.name != "__init__.py"}
    assert named == present


def test_every_function_of_the_language_is_in_the_readme():
    section = README[README.index("- Functions and operators") : README.index("- `:name` puts in")]
    named = set(re.findall(r"`(\w+)", section))
    assert set(functions.BY_NAME) <= named
    words = {"and", "or", "not", "between", "in", "is", "like", "ilike", "case", "extract"}
    assert named <= set(functions.BY_NAME) | set(functions.OTHER_NAMES) | words


def test_the_projection_in_python_in_readme_works(tmp_path: Path):
    (text,) = (block for block in blocks("python") if "class Longest" in block)
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    event = {"event_id": "1", "source_id": "s", "stream_id": "a", "event_type": "A", "payload": {"a": 1}}
    (tmp_path / "one.ndjson").write_text(
        json.dumps(event | {"timestamp": "2026-01-01T00:00:00Z"}) + "\n", encoding="utf-8"
    )
    command = "evtool ingest one.ndjson 2>/dev/null && evtool project mine:Longest --format csv"
    done = run(["bash", "-c", command], tmp_path)
    assert done.stdout.splitlines()[-2:] == ["event_type,bytes", "A,8"]
