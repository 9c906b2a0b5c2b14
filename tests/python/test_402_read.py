"""A read gives every byte asked for, or an error; never fewer, and nothing is changed by one that failed."""

import pytest
import r3map
from conftest import Own, pattern


def test_a_read_gives_every_byte_or_an_error():
    own = Own(300000)
    with r3map.mount(own) as m:
        assert m.read_at(300000, 0) == pattern(300000)
        buffer = bytearray(b"." * 200000)
        own.failures = [OSError(5, "broken")] * 50
        with pytest.raises(r3map.Io):
            m.read_into(buffer, 0)
        own.failures = []
        m.read_into(buffer, 100000)
        assert buffer == pattern(300000)[100000:]
