"""A function of the offset says what is pulled first."""

import pytest
import r3map
from conftest import Own


def test_a_function_of_the_offset_says_what_is_pulled_first():
    size, seen = 1 << 20, []

    class Watched(Own):
        def read_at(self, length, offset):
            seen.append(offset)
            return super().read_at(length, offset)

    own = Watched(size, concurrency=1)
    with r3map.mount(
        own, mode="managed", max_in_flight=65536, pull_range=lambda offset: 1 if offset >= size // 2 else 0
    ) as m:
        m.wait_local(timeout=20)
    assert min(seen[:4]) >= size // 2
    assert sorted(set(seen)) == list(range(0, size, 65536))


def test_what_that_function_raises_ends_the_opening():
    with pytest.raises(ZeroDivisionError):
        r3map.mount("memory:?size=1MiB", mode="managed", pull_range=lambda offset: 1 // 0)
