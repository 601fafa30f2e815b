"""Objects as files below a folder, each durable when it is put."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from evtool.errors import StorageError
from evtool.files import Buffer, Files, translated
from evtool.objectstore.store import Store, Stored


class FolderStore(Store):
    """Objects of a folder, which is made when the first one is put. A name is a path below it."""

    def __init__(self, files: Files, folder: Path) -> None:
        super().__init__(str(folder))
        self._files = files
        self.folder = folder

    def put(self, name: str, data: Buffer) -> None:
        """Store an object; it is durable then. Raises StorageError."""
        path = self.folder / name
        try:
            self._files.make_folder(path.parent)
            self._files.write_whole(path, data, shared=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StorageError(f"cannot write {path}: a file is where a folder should be") from error

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, or to the end. Raises FileNotFoundError."""
        path = self.folder / name
        try:
            with translated("read", path), self._files.open_read(path) as file:
                file.seek(start)
                return file.read(end - start)
        except NotADirectoryError as error:
            raise FileNotFoundError(error.errno, error.strerror, path) from error

    def get(self, name: str) -> bytes:
        """All bytes of a small object. Raises FileNotFoundError."""
        path = self.folder / name
        try:
            return self._files.read_whole(path)
        except NotADirectoryError as error:
            raise FileNotFoundError(error.errno, error.strerror, path) from error

    def head(self, name: str) -> Stored | None:
        """What is known of an object; None when it is absent."""
        path = self.folder / name
        try:
            with translated("look at", path):
                found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stored(name, found.st_size, found.st_mtime)

    def list(self, prefix: str) -> Iterator[Stored]:
        """The objects whose names begin with `prefix`, of files that are unfinished, too."""
        for folder, folders, names in os.walk(self.folder / prefix):
            folders.sort()
            for name in sorted(names):
                found = self.head((Path(folder) / name).relative_to(self.folder).as_posix())
                if found is not None:  # it may have gone since
                    yield found

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._files.remove(self.folder / name)
