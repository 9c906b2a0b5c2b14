"""A slice is memory to numpy, struct and memoryview without a copy; a read-only one is read-only in each."""

import array
import struct

import numpy as np
import pytest
import r3map
from conftest import needs


def test_numpy_and_struct_work_on_the_bytes_themselves(region):
    path, url = region(8192)
    with r3map.mount(url) as m:
        view = needs(m.slice)
        numbers = np.frombuffer(view, dtype="<u4")
        numbers[:4] = [1, 2, 3, 4]
        struct.pack_into("<q", view, 4096, -5)
        assert m.read_at(16, 0) == np.arange(1, 5, dtype="<u4").tobytes()
        assert struct.unpack_from("<q", view, 4096) == (-5,)
        assert view[4096:4104].cast("q")[0] == -5
        del numbers
        view.release()
    assert struct.unpack_from("<q", path.read_bytes(), 4096) == (-5,)


def test_a_read_only_slice_is_read_only_in_every_view(region):
    with r3map.mount(region(8192)[1], read_only=True) as m:
        view = needs(m.slice)
        numbers = np.frombuffer(view, dtype=np.uint8)
        assert view.readonly and not numbers.flags.writeable
        with pytest.raises(TypeError):
            view[0] = 1
        with pytest.raises(ValueError):
            numbers[0] = 1
        with pytest.raises(TypeError):
            struct.pack_into("B", view, 0, 1)
        with pytest.raises(BufferError):
            m.read_into(view, 0)
        del numbers
        view.release()


def test_reads_and_writes_take_any_contiguous_buffer():
    with r3map.mount("memory:?size=8192") as m:
        m.write_at(array.array("i", [1, 2, 3]), 0)
        m.write_at(np.ones((2, 3)), 100)
        numbers = np.zeros(6)
        m.read_into(numbers, 100)
        assert (numbers == 1).all()
        with pytest.raises((BufferError, ValueError), match="contiguous"):
            m.read_into(np.zeros((8, 8))[:, 0], 0)
        with pytest.raises(BufferError):
            m.read_into(b"constant", 0)


def test_an_empty_region_is_an_empty_view():
    with r3map.mount("memory:?size=0") as m:
        try:
            assert bytes(m.slice()) == b""
        except r3map.Error as refused:
            assert refused.code in ("invalid_argument", "unsupported", "no_device")
        assert m.read_at(0, 0) == b""
