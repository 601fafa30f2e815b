"""Where a log is: a folder, or the URL of its archive, which is read through a folder of this machine.

A URL that went through a path has lost a slash (s3:/bucket/prefix), and is still one: no folder is called `s3:`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

import xxhash

from evtool.errors import ConfigError

_URL = re.compile(r"(s3|file):/+(.*)", re.DOTALL)


def url_of(path: Path | str) -> str | None:
    """The URL that a path is meant as, in one form of those that mean the same; None for a folder."""
    match = _URL.fullmatch(str(path))
    if match is None:
        return None
    rest = "/".join(part for part in match[2].split("/") if part)
    return f"s3://{rest}" if match[1] == "s3" else f"file:///{quote(unquote(rest))}"


def mirror_folder(url: str) -> Path:
    """The folder through which an archive is read: in $XDG_CACHE_HOME, or ~/.cache. Raises ConfigError."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():
        try:
            home = Path.home() / ".cache"
        except RuntimeError as error:
            raise ConfigError(
                f"{url}: there is no home folder to read it through", "Set XDG_CACHE_HOME to a folder."
            ) from error
    return home / "evtool" / xxhash.xxh3_128_hexdigest(url.encode())
