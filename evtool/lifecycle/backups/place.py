"""Where backups go: what evtool.toml or a flag says of it, as an object store."""

from __future__ import annotations

from evtool.config import Config
from evtool.errors import ConfigError
from evtool.files import Files
from evtool.objectstore.opening import open_store
from evtool.objectstore.store import Store


def store_of(config: Config, url: str | None = None, files: Files | None = None) -> Store:
    """The object store of a URL that was given, or of evtool.toml, in which paths are relative to the file.

    Raises ConfigError.
    """
    patience_seconds = config.backup.patience_ms / 1000
    if url is not None:
        return open_store(url, files or Files(), patience_seconds=patience_seconds)
    if config.backup.to is None:
        raise ConfigError(
            "it is not said where backups are",
            'Name a URL (--to, --from), or write to = "URL" in [backup] of evtool.toml.',
        )
    base = config.file.parent if config.file else None
    return open_store(config.backup.to, files or Files(), base, patience_seconds)
