"""A file is a raw file object over a new descriptor each time, and agrees with the handle."""

import errno
import io
import os

import pytest
import r3map
from conftest import descriptors, needs, pattern


def test_a_file_is_a_raw_file_object_of_the_regions_size(region):
    path, url = region(65537)
    with r3map.mount(url, device="fuse") as m:
        first, second = needs(m.file), m.file()
        assert isinstance(first, io.RawIOBase) and first.fileno() != second.fileno()
        assert first.readable() and first.writable() and first.seekable() and first.mode == "rb+"
        assert first.seek(0, io.SEEK_END) == 65537 == first.size and first.read(1) == b""
        first.seek(65535)
        assert first.read(100) == pattern(65537)[65535:]
        first.seek(-3, io.SEEK_END)
        assert first.write(b"abcdef") == 3 and first.tell() == 65537
        with pytest.raises(OSError) as full:
            first.write(b"x")
        assert full.value.errno == errno.ENOSPC
        assert m.read_at(3, 65534) == b"abc"
        second.seek(65534)
        assert second.read() == b"abc"
        os.fsync(first.fileno())
        assert path.read_bytes()[-3:] == b"abc"
        before = descriptors()
        first.close()
        first.close()
        assert descriptors() == before - 1 and first.closed
        for refused in (first.fileno, first.tell, lambda: first.read(1), lambda: first.seek(0)):
            with pytest.raises(ValueError, match="closed"):
                refused()
        second.close()


def test_what_a_file_of_fixed_size_cannot_do_is_refused():
    with r3map.mount("memory:?size=4096", device="fuse", read_only=True) as m, needs(m.file) as file:
        assert not file.writable() and file.mode == "rb"
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            file.truncate(1)
        with pytest.raises(ValueError):
            file.seek(-1)
        with pytest.raises(ValueError):
            file.seek(0, 9)
