"""What is written to a backend is read back; a range outside it is refused, whole."""

import pytest
import r3map
from conftest import pattern


def test_a_backend_gives_back_what_was_written_and_refuses_what_lies_outside():
    with r3map.open_backend("memory:?size=100001") as backend:
        backend.write_at(pattern(100001), 0)
        backend.write_at(memoryview(b"abc"), 99998)
        backend.sync()
        found = bytearray(5)
        backend.read_into(found, 99996)
        assert found == pattern(100001)[99996:99998] + b"abc"
        assert backend.read_at(0, 100001) == b""
        for refused in (
            lambda: backend.read_at(2, 100000),
            lambda: backend.read_into(bytearray(1), 100001),
            lambda: backend.write_at(b"ab", 100000),
        ):
            with pytest.raises(r3map.OutOfRange, match="outside its 100001 bytes"):
                refused()
        assert backend.read_at(3, 99998) == b"abc"
