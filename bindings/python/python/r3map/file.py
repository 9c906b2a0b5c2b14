"""A region as a file object of Python: unbuffered, of the region's exact size, which never changes."""

from __future__ import annotations

import errno
import io
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._r3map import Mount


class Positioned(io.RawIOBase):
    """A raw file object over something that is read and written at offsets."""

    def __init__(self, size: int, read_only: bool) -> None:
        self._size = size
        self._read_only = read_only
        self._at = 0

    def _read_into(self, view: memoryview, offset: int) -> int:
        raise NotImplementedError

    def _write(self, view: memoryview, offset: int) -> int:
        raise NotImplementedError

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def readable(self) -> bool:
        self._check()
        return True

    def writable(self) -> bool:
        self._check()
        return not self._read_only

    def seekable(self) -> bool:
        self._check()
        return True

    @property
    def mode(self) -> str:
        """As `open` takes it."""
        return "rb" if self._read_only else "rb+"

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self._size

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.mode}, {self._size} bytes"
        return f"<r3map.{type(self).__name__} {state}>"

    def tell(self) -> int:
        self._check()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check()
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError(f"whence {whence}: 0, 1 or 2")
        at = bases[whence] + offset
        if at < 0:
            raise ValueError(f"seek to {at}, before the first byte")
        self._at = at
        return at

    def readinto(self, buffer: Buffer) -> int:
        self._check()
        with memoryview(buffer).cast("B") as whole:
            length = min(len(whole), max(self._size - self._at, 0))
            found = self._read_into(whole[:length], self._at) if length else 0
        self._at += found
        return found

    def write(self, data: Buffer) -> int:
        self._check()
        if self._read_only:
            raise io.UnsupportedOperation("not writable")
        with memoryview(data).cast("B") as whole:
            length = min(len(whole), max(self._size - self._at, 0))
            if length < len(whole) and length == 0:
                raise OSError(errno.ENOSPC, "past the end of the region, whose size is fixed")
            written = self._write(whole[:length], self._at) if length else 0
        self._at += written
        return written

    def truncate(self, size: int | None = None) -> int:
        self._check()
        if (self._at if size is None else size) != self._size:
            raise io.UnsupportedOperation("the size of a region is fixed")
        return self._size


class File(Positioned):
    """A region through a descriptor of its device, which this object owns. `os.fsync` of it makes writes durable."""

    def __init__(self, descriptor: int, size: int, read_only: bool) -> None:
        self._descriptor = descriptor
        super().__init__(size, read_only)

    def fileno(self) -> int:
        self._check()
        return self._descriptor

    def _read_into(self, view: memoryview, offset: int) -> int:
        return os.preadv(self._descriptor, [view], offset)

    def _write(self, view: memoryview, offset: int) -> int:
        return os.pwrite(self._descriptor, view, offset)

    def close(self) -> None:
        """Closes the descriptor."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class MountFile(Positioned):
    """A region through the handle of its mount, without a device. Closing it closes the mount, which syncs."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        super().__init__(mount.size, mount.read_only)

    def _read_into(self, view: memoryview, offset: int) -> int:
        self._mount.read_into(view, offset)
        return len(view)

    def _write(self, view: memoryview, offset: int) -> int:
        self._mount.write_at(view, offset)
        return len(view)

    def close(self) -> None:
        """Closes the mount."""
        if not self.closed:
            super().close()
            self._mount.close()
