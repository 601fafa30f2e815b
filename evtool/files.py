"""The only place where evtool calls the operating system for a log's files.

Assumptions: a write that `sync` has returned for survives a power cut; bytes that were not synced may
survive in any part; a rename is atomic; a new file is there after a power cut only when its folder
was synced too. After a failed sync the state of the file is unknown (the kernel may have dropped the
pages and cleared the error), so a writer must not sync again: it reopens and recovers.

`Files` is one small object that is handed down, so that a test can put one in its place that fails,
tears a write or forgets what was not synced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import mmap
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias

from evtool.errors import AccessDeniedError, LogLockedError, NoSpaceError, StorageError

Buffer: TypeAlias = bytes | bytearray | memoryview

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_HINTS = {
    errno.ENAMETOOLONG: "Choose a shorter name: most file systems take 255 bytes.",
    errno.ELOOP: "Its symbolic links lead in a circle.",
    errno.EISDIR: "There is a folder where a file should be.",
    errno.EMFILE: "Raise the limit of open files: ulimit -n",
}
_WRITEV_BUFFERS_MAX = 512
_READ_BYTES = 1 << 20


class AppendFile:
    """A file open for appending at its end."""

    def __init__(self, files: Files, path: Path, descriptor: int, size: int) -> None:
        self._files = files
        self._descriptor = descriptor
        self.path = path
        self.size = size

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Write all of `buffers` after one another. Raises StorageError; then the end of the file is unknown."""
        for start in range(0, len(buffers), _WRITEV_BUFFERS_MAX):
            self._append(buffers[start : start + _WRITEV_BUFFERS_MAX])

    def _append(self, buffers: Sequence[Buffer]) -> None:
        pending = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while pending:
            with translated("write to", self.path):
                written = self._files.write(self._descriptor, pending)
            self.size += written
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if pending and written:
                pending[0] = pending[0][written:]

    def sync(self) -> None:
        """Return when everything that was appended is on stable storage. Raises StorageError, after
        which the file must be reopened and recovered, never synced again.
        """
        with translated("sync", self.path):
            self._files.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close without syncing; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Files:
    """The operating system. Tests subclass the four lowest calls: write, fdatasync, replace, link."""

    def write(self, descriptor: int, buffers: Sequence[memoryview]) -> int:
        """Write some prefix of `buffers`; the number of bytes that were written."""
        return os.writev(descriptor, buffers)

    def fdatasync(self, descriptor: int) -> None:
        """Bring the file's data, and what is needed to find it, to stable storage."""
        _fdatasync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename `source` over `target`, atomically."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file another name, which must be free. Raises FileExistsError."""
        os.link(source, target)

    def open_append(self, path: Path, create: bool = False, durable: bool = True) -> AppendFile:
        """Open for appending; a file that is made is there after a power cut (if `durable`)."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        with translated("open", path):
            new = create and not path.exists()
            descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o666)
            size = os.fstat(descriptor).st_size
        if new and durable:
            self.sync_folder(path.parent)
        return AppendFile(self, path, descriptor, size)

    def write_whole(self, path: Path, data: Buffer, durable: bool = True, shared: bool = False) -> None:
        """Put a file with `data` in the place of `path`, whole or not at all; if `durable`, after a power cut too.

        A `shared` one may be put there by several processes at once: the last one counts.
        """
        with self._unfinished(path, data, durable, shared) as temporary, translated("rename", path):
            self.replace(temporary, path)
        if durable:
            self.sync_folder(path.parent)

    def create_whole(self, path: Path, data: Buffer) -> None:
        """Make a file with `data`, whole or not at all, also after a power cut.

        Raises FileExistsError if there is one: of several processes that make it at once, one does.
        """
        with self._unfinished(path, data, durable=True, shared=True) as temporary, translated("make", path):
            self._name(temporary, path)
        self.sync_folder(path.parent)

    @contextlib.contextmanager
    def _unfinished(self, path: Path, data: Buffer, durable: bool, shared: bool) -> Iterator[Path]:
        """A file with `data` beside `path`. A shared one has a name that nobody else uses, and does not stay."""
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp" if shared else f"{path.name}.tmp")
        if not shared:
            self.remove(temporary)
        try:
            file = self.open_append(temporary, create=True, durable=False)
            try:
                file.append([data])
                if durable:
                    file.sync()
            finally:
                file.close()
            yield temporary
        finally:
            if shared:
                with contextlib.suppress(StorageError):  # what failed before says more
                    self.remove(temporary)

    def _name(self, temporary: Path, path: Path) -> None:
        try:
            self.link(temporary, path)
        except OSError as error:
            # Where a file has one name only, look and rename: nearly as good.
            if error.errno not in _NO_LINKS:
                raise
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
            self.replace(temporary, path)

    def read_whole(self, path: Path) -> bytes:
        """All bytes of a small file. Raises FileNotFoundError as it is, StorageError for the rest."""
        with translated("read", path):
            return path.read_bytes()

    def open_read(self, path: Path) -> BinaryIO:
        """Open to read from the beginning; what is read later than it was removed is still that file."""
        with translated("open", path):
            return open(path, "rb", buffering=_READ_BYTES)

    def make_folder(self, path: Path) -> None:
        """Make a folder and its parents, there after a power cut."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with translated("make folder", path):
            path.mkdir(exist_ok=True)
        self.sync_folder(path.parent)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        with translated("sync folder", path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes, durably."""
        with translated("cut", path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        with translated("remove", path), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder and all that is in it, if it is there."""
        with translated("remove", path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    def point(self, path: Path, target: str) -> None:
        """Let `path` be a symbolic link to `target`, in the place of a file or another link, atomically."""
        temporary = path.with_name(path.name + ".tmp")
        self.remove(temporary)
        with translated("link", path):
            os.symlink(target, temporary)
            self.replace(temporary, path)
        self.sync_folder(path.parent)

    def size(self, path: Path) -> int:
        """Bytes of a file; 0 when it is absent."""
        try:
            with translated("look at", path):
                return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def identity(self, path: Path) -> tuple[int, ...]:
        """What tells a file from another one that has taken its name; nothing when it is absent."""
        try:
            with translated("look at", path):
                found = path.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def folder_size(self, path: Path) -> int:
        """Bytes of all files below a folder."""
        return sum(self.size(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)

    def entries(self, path: Path) -> Iterator[tuple[int, int, Path]]:
        """When each file below a folder was last written or touched (ns), its bytes, and its path."""
        for folder, _, names in os.walk(path):
            for name in names:
                found = Path(folder, name)
                with contextlib.suppress(FileNotFoundError), translated("look at", found):
                    status = found.stat()
                    yield status.st_mtime_ns, status.st_size, found

    def touch(self, path: Path) -> None:
        """Note that a file of a cache was used, if that can be noted."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def map(self, path: Path, size: int | None = None) -> memoryview:
        """The first `size` bytes of a file (default: all), mapped to be read.

        The view holds the mapping: it stays valid as long as it, or a slice of it, is referenced, even
        when the file is removed meanwhile. An empty file gives an empty view.
        """
        with translated("map", path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                there = os.fstat(descriptor).st_size
                length = there if size is None else min(size, there)
                if length == 0:
                    return memoryview(b"")
                return memoryview(mmap.mmap(descriptor, length, access=mmap.ACCESS_READ))
            finally:
                os.close(descriptor)

    def map_writable(self, path: Path, size: int) -> mmap.mmap:
        """`size` bytes of a file, made if absent, mapped to be written (used for hints and caches only)."""
        with translated("map", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if os.fstat(descriptor).st_size != size:
                    os.ftruncate(descriptor, size)
                    # Without this a full disk would show itself as SIGBUS at a later store.
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(descriptor, 0, size)
                return mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)

    def flush(self, path: Path, mapping: mmap.mmap) -> None:
        """Bring what was stored in a mapped file to stable storage.

        Most of it by a sync of the file, during which other threads run: `mmap.flush` keeps the
        interpreter's lock. Where a sync leaves stores through a mapping aside, that one writes them.
        """
        with translated("sync", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                _fdatasync(descriptor)
            finally:
                os.close(descriptor)
            mapping.flush()

    def lock(
        self,
        path: Path,
        taken: str = "is being written by",
        hint: str = "Wait until it ends, or send the events through it. Reading needs no lock.",
    ) -> Lock:
        """Take the lock file `path` for this process.

        Raises LogLockedError: that the folder is `taken` (words in front of who has it), and what to do.
        """
        with translated("open", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise LogLockedError(f"{path.parent} {taken} {holder}", hint) from error
        try:
            with translated("write", path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return Lock(descriptor)

    def wait_for_lock(self, path: Path) -> Lock:
        """Take a lock file that nobody holds for long, as soon as it is free."""
        with translated("lock", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return Lock(descriptor)


def _fdatasync(descriptor: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def forget(view: memoryview, start: int, end: int) -> None:
    """Give back the memory that holds these bytes of a mapped view; they are read again when needed.

    So who goes through a log of any size holds no more of it than what is being looked at.
    """
    mapping = view.obj
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        end = min(end, len(mapping))  # a file may have been cut
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first:
            mapping.madvise(mmap.MADV_DONTNEED, first, end - first)


def forget_all(memory: mmap.mmap | memoryview) -> None:
    """The same for all of a mapping. What was stored in it is kept: the file has it."""
    mapping = memory.obj if isinstance(memory, memoryview) else memory
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


class Lock:
    """A held lock; the kernel lets it go when the process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go. The file stays: removing it would let two writers hold two files of one name."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


class translated:  # noqa: N801 - reads as what it does: with translated("sync", path)
    """Raise what the operating system refuses as a StorageError that says what was done to which file.

    A file that is absent, or a file in the place of a folder, is left for the caller to speak of.
    """

    def __init__(self, action: str, path: Path | str) -> None:
        self._action = action
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError):
            return
        if isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError):
            return
        if error.errno in _NO_SPACE:
            refused: type[StorageError] = NoSpaceError
            hint = "Free some space, then run the same command again: nothing was lost."
        elif error.errno in _NO_ACCESS:
            refused = AccessDeniedError
            hint = "Check the owner and the permissions, and that the disk is writable."
        else:
            refused = StorageError
            hint = _HINTS.get(error.errno or 0, "Look at the disk (dmesg, smartctl) before you try again.")
        raise refused(f"cannot {self._action} {self._path}: {error.strerror or error}", hint) from error


@functools.cache
def boot_identity() -> int:
    """A number that differs from one boot of the machine to the next; 0 where none can be had."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return 0
    return int.from_bytes(hashlib.blake2b(text.strip(), digest_size=8).digest(), "little") or 1
