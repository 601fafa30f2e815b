"""Objects in a bucket that speaks S3, through the package `obstore`.

The key, the region and the endpoint come from where obstore takes them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT_URL and the rest of them, or the machine's role. None of what obstore says of a failure is
passed on as it is, since nobody knows what is in there: a sentence is made of the status and the code of S3.

What may pass by (no answer, an answer too late, an error of the server) is tried again, with pauses, for as long
as `patience_seconds` says. What will not (a key that is refused, no such bucket) is not.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from evtool.errors import ConfigError, StoreError, StoreRefusedError
from evtool.files import Buffer
from evtool.objectstore.store import PART_BYTES, Store, Stored

if TYPE_CHECKING:
    from obstore.store import S3Store as Client

Result = TypeVar("Result")

EXTRA = "s3"

_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 60  # of one part, beside others: enough from half a megabyte a second on
_PARTS_AT_ONCE = 4
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.2, 5.0

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_REFUSED = {301, 400, 401, 403, 405}
_TOO_BUSY = {408, 429}
_NO_BUCKET = "NoSuchBucket"
_ROLE = "/latest/api/token"  # where a machine of AWS is asked for its role, when there is no key
_KEY_HINT = "Check the key and what it may do: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, the policy of the bucket."
_CONFIGURATION_HINT = "Check the name of the bucket, AWS_REGION and AWS_ENDPOINT_URL."
_LATER_HINT = "Nothing that is stored was changed. Check AWS_ENDPOINT_URL and the network, then run it again."


class S3Store(Store):
    """Objects of a bucket below a prefix, `s3://BUCKET/PREFIX`."""

    def __init__(self, url: str, patience_seconds: float) -> None:
        super().__init__(url)
        self._client = _client(url)
        self._patience_seconds = patience_seconds

    def put(self, name: str, data: Buffer) -> None:
        """Store an object, in several parts where it is large."""
        import obstore

        def put() -> None:
            whole = memoryview(data)
            obstore.put(self._client, name, whole, chunk_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

        try:
            self._call("store", name, put)
        except FileNotFoundError as error:
            raise StoreError(f"cannot store {error.filename}: the store lost it meanwhile", _LATER_HINT) from None

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, or to the end. Raises FileNotFoundError."""
        import obstore

        if start >= end:
            return b""

        def read() -> bytes:
            return bytes(obstore.get_range(self._client, name, start=start, end=end))

        return self._call("read", name, read)

    def read_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[Buffer]:
        """The bytes of each span, several at the same time. Raises FileNotFoundError."""
        import obstore

        starts, ends = [start for start, _ in spans], [end for _, end in spans]

        def read() -> list[Buffer]:
            found = obstore.get_ranges(self._client, name, starts=starts, ends=ends, coalesce=0)
            return [memoryview(data) for data in found]

        return self._call("read", name, read)

    def get(self, name: str) -> bytes:
        """All bytes of a small object. Raises FileNotFoundError."""
        import obstore

        return self._call("read", name, lambda: bytes(obstore.get(self._client, name).bytes()))

    def head(self, name: str) -> Stored | None:
        """What is known of an object; None when it is absent."""
        import obstore

        try:
            return _stored(self._call("look at", name, lambda: obstore.head(self._client, name)))
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[Stored]:
        """The objects whose names begin with `prefix`."""
        import obstore

        def listed() -> list[Any]:
            return [found for some in obstore.list(self._client, prefix=prefix) for found in some]

        try:
            found = self._call("list", prefix, listed)
        except FileNotFoundError:
            found = []
        return iter([_stored(each) for each in found])

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        import obstore

        try:
            self._call("remove", name, lambda: obstore.delete(self._client, name))
        except FileNotFoundError:
            return

    def _call(self, action: str, name: str, attempt: Callable[[], Result]) -> Result:
        """Do it, again where a failure may pass by. Raises FileNotFoundError, StoreError, StoreRefusedError."""
        import obstore

        where = f"{self.url.rstrip('/')}/{name}"
        ends_at, pause = time.monotonic() + self._patience_seconds, _PAUSE_SECONDS
        while True:
            try:
                return attempt()
            except FileNotFoundError as error:
                if _NO_BUCKET in str(error):
                    raise _refused(action, where, _NO_BUCKET) from None
                raise FileNotFoundError(2, "no such object", where) from None
            except (obstore.exceptions.BaseError, OSError, ValueError) as error:
                problem = _problem(action, where, error)
            if isinstance(problem, StoreRefusedError) or time.monotonic() + pause > ends_at:
                raise problem from None  # what obstore says may hold anything
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)


def _client(url: str) -> Client:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store as Client
    except ImportError as error:
        raise ConfigError(
            f"{url}: the package obstore is not installed, and s3:// needs it",
            f"Install it: pip install 'evtool[{EXTRA}]'",
        ) from error
    _check_environment()
    try:
        return Client.from_url(
            url,
            client_options={
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                "timeout": timedelta(seconds=_REQUEST_SECONDS),
                "allow_http": True,  # where an endpoint is given as http://, that is what is meant
            },
            retry_config={"max_retries": 0},  # `_call` tries again, and knows for how long
        )
    except (BaseError, ValueError, OSError) as error:
        raise ConfigError(f"{url} makes no sense as a place of objects", "Write s3://BUCKET/PREFIX.") from error


def _check_environment() -> None:
    """Raise ConfigError for what obstore would not fail with, but panic. Values are not told: they may be keys."""
    for name, value in sorted(os.environ.items()):
        if not name.upper().startswith("AWS_"):
            continue
        if any(sign < " " for sign in value):
            raise ConfigError(
                f"{name} holds a line break or another control character",
                "Set it without: it may come from a file.",
            )
        if name.upper().startswith("AWS_ENDPOINT") and not _is_server(value):
            raise ConfigError(
                f"{name} is no URL of a server", "Write http://HOST:PORT or https://HOST, or unset it."
            )


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and url.isascii() and " " not in url


def _stored(found: Any) -> Stored:
    return Stored(found["path"], found["size"], found["last_modified"].timestamp())


def _problem(action: str, where: str, error: Exception) -> StoreError:
    """A sentence for what obstore has raised."""
    from obstore import exceptions

    told = str(error)
    if _ROLE in told:
        return StoreRefusedError(f"cannot {action} {where}: no key was found for it", _KEY_HINT)
    status, code = _STATUS.search(told), _CODE.search(told)
    number = int(status[1]) if status else 0
    name = code[1] if code else ""
    if name == _NO_BUCKET or number in _REFUSED or (400 <= number < 500 and number not in _TOO_BUSY):
        return _refused(action, where, name or f"status {number}")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return _refused(action, where, name or "no permission")
    if number:
        return StoreError(f"cannot {action} {where}: the store failed ({name or f'status {number}'})", _LATER_HINT)
    return StoreError(f"cannot {action} {where}: the store does not answer", _LATER_HINT)


def _refused(action: str, where: str, what: str) -> StoreRefusedError:
    is_key = any(word in what for word in ("Key", "Denied", "Signature", "Token", "permission", "401", "403"))
    hint = _KEY_HINT if is_key else _CONFIGURATION_HINT
    return StoreRefusedError(f"cannot {action} {where}: the store refused it ({what})", hint)
