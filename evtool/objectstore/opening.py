"""URLs of object stores."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from evtool.errors import ConfigError
from evtool.files import Files
from evtool.objectstore.folder import FolderStore
from evtool.objectstore.store import Store

_PATIENCE_SECONDS = 60.0


def open_store(
    url: str, files: Files, base: Path | None = None, patience_seconds: float = _PATIENCE_SECONDS
) -> Store:
    """The object store of a path, `file:///PATH` or `s3://BUCKET/PREFIX`; nothing is asked of it yet.

    A relative path is relative to `base`. A store that does not answer is asked again for `patience_seconds`.
    Raises ConfigError.
    """
    scheme, separator, _ = url.partition("://")
    if not url or "\0" in url:
        raise ConfigError(f"{url!r} is no place for objects", "Name a folder, or s3://BUCKET/PREFIX.")
    if not separator:
        if url.lower().startswith(("file:", "s3:")):
            raise ConfigError(
                f"a URL begins with {url.partition(':')[0].lower()}:// and this one does not",
                "Write s3://BUCKET/PREFIX or file:///PATH, with all slashes.",
            )
        return FolderStore(files, (base or Path()) / url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL", "Write s3://BUCKET/PREFIX or file:///PATH.") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"the URL {scheme}://… holds more than a place",
            "A key belongs into the environment: AWS_ACCESS_KEY_ID. In names, write %3F for ? and %23 for #.",
        )
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ConfigError(
                f"{url!r} names no folder of this machine", "Write file:///PATH, with three slashes."
            )
        return FolderStore(files, Path(unquote(parts.path)))
    if scheme == "s3":
        if not parts.netloc:
            raise ConfigError(f"{url!r} names no bucket", "Write s3://BUCKET/PREFIX.")
        from evtool.objectstore.s3 import S3Store

        return S3Store(url, patience_seconds)
    raise ConfigError(
        f"{scheme}:// is no object store that is known here", "Name a folder, or s3://BUCKET/PREFIX."
    )
