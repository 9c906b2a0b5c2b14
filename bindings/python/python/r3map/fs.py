"""A file system for fsspec, found by its scheme: `fsspec.open("r3map://host:7070/table.csv")`, `pandas.read_csv` of the
same. An export is a file of fixed size in a directory that cannot be listed; options of a mount are storage options.
"""

from __future__ import annotations

import io
from typing import Any

import r3map
from fsspec.spec import AbstractFileSystem

from .file import MountFile


class R3mapFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Exports of r3map as files. Reading keeps what was read and pulls nothing else, unless an option says so."""

    protocol = ("r3map", "r3maps", "r3map+unix")
    root_marker = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        theirs = ("asynchronous", "loop", "use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache")
        self._options = {name: value for name, value in options.items() if name not in theirs}

    @classmethod
    def _strip_protocol(cls, path: str | list[str]) -> Any:
        """Keeps the scheme: it says what the rest is."""
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return path if "://" in path else f"r3map://{path.lstrip('/')}"

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path, which is one already."""
        return str(self._strip_protocol(name))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name and size of an export."""
        url = self._strip_protocol(path)
        known = r3map.BackendOptions.__annotations__
        options = {name: value for name, value in self._options.items() if name in known}
        with r3map.open_backend(url, **options) as backend:
            return {"name": url, "size": backend.size, "type": "file"}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The export itself: a server does not say what else it has."""
        found = self.info(path)
        return [found if detail else found["name"]]

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode not in ("rb", "r+b", "rb+"):
            raise r3map.Unsupported(f"{path}: mode {mode!r}: an export is opened as rb or r+b, its size is fixed")
        for theirs in ("autocommit", "cache_options", "cache_type", "size"):
            options.pop(theirs, None)
        wanted = {"mode": "managed", "pull": "demand", "read_only": mode == "rb", **self._options, **options}
        raw = MountFile(r3map.mount(self._strip_protocol(path), **wanted))
        size = block_size or io.DEFAULT_BUFFER_SIZE
        return io.BufferedReader(raw, size) if mode == "rb" else io.BufferedRandom(raw, size)
