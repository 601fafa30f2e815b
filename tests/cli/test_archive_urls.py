"""Commands that read a log take the URL of its archive in its place; those that write to it refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from archives import archived, make, store_folder, stubs
from backing import replay
from command_line import as_json, environment, failed, run

from evtool import location


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the archive is read through."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "evtool"


def test_commands_read_an_archive_by_its_url(folder: Path, tmp_path: Path, home: Path):
    make(folder)
    archived(folder)
    url = store_folder(folder).as_uri()
    last = 100 * len(stubs(folder))
    replayed = run("replay", "--log", url, cwd=tmp_path)
    assert replayed.stdout == replay(folder, end=last + 1)
    told = as_json("stats", "--log", url, cwd=tmp_path)
    assert (told["position"], told["archived_segments"], told["archive"]) == (last, len(stubs(folder)), url)
    assert 0 < told["cache_bytes"] <= told["bytes_on_disk"]
    assert url in run("stats", cwd=tmp_path, env=environment(EVTOOL_LOG=url)).stdout.decode()
    assert as_json("verify", "--log", url, cwd=tmp_path)["clean"]
    assert as_json("inspect", "1", "--log", url, cwd=tmp_path)["cold"]
    (tmp_path / "evtool.toml").write_text(f'[log]\npath = "{url}"\n')
    lines = run("project", "event-counts", "--format", "json", cwd=tmp_path).stdout
    assert sum(row["events"] for row in json.loads(lines)) == last
    assert list(home.rglob("event-counts.parquet"))


@pytest.mark.parametrize(
    "words",
    [
        ["init"],
        ["compact"],
        ["reindex"],
        ["nightly"],
        ["snapshot", "take", "event-counts"],
    ],
    ids=lambda words: words[0],
)
def test_commands_that_write_refuse_an_archive(folder: Path, tmp_path: Path, home: Path, words: list[str]):
    make(folder, cold=2)
    archived(folder)
    told = failed(15, *words, "--log", store_folder(folder).as_uri(), cwd=tmp_path)
    assert "read only" in told


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3:/bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("file:///a/b%20c", "file:///a/b%20c"),
        ("file:/a/b c", "file:///a/b%20c"),
        ("segments", None),
        ("/a/s3:/b", None),
        ("./file", None),
    ],
)
def test_a_url_has_one_form(text: str, url: str | None):
    assert location.url_of(text) == url
    assert location.url_of(Path(text)) == url
