"""Objects that can be no backend are refused with what is wrong with them."""

import pytest
import r3map
from conftest import Own


class NoSize:
    def read_at(self, length, offset):
        return bytes(length)


@pytest.mark.parametrize("refused", [3, None, object(), [], b"memory:?size=1"])
def test_what_has_no_read_at_is_a_type_error(refused):
    with pytest.raises(TypeError, match="a backend is a URL, a Backend, a Mount or an object with size and read_at"):
        r3map.mount(refused)


def test_size_has_to_be_there_and_a_number_that_is_not_negative():
    with pytest.raises(AttributeError, match="size"):
        r3map.mount(NoSize())
    for size, kind in ((-1, ValueError), ("1", TypeError), (1 << 70, OverflowError)):
        own = NoSize()
        own.size = size
        with pytest.raises(kind):
            r3map.mount(own)


@pytest.mark.parametrize(("name", "value"), [("chunk_size", 5000), ("concurrency", 0)])
def test_attributes_that_no_backend_can_have_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        r3map.open_backend(Own(4096, **{name: value}))


def test_what_is_no_method_is_refused():
    own = Own(1)
    own.write_at = 3
    with pytest.raises(TypeError, match="write_at"):
        r3map.open_backend(own)
