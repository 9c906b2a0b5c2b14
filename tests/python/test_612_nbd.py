"""What is written to a real /dev/nbdX at the source is on the /dev/nbdX of the destination; the source's fails."""

# In the guest: --memory 1G

import os

import pytest
import r3map
from conftest import needs, pattern


def test_a_region_moves_from_one_block_device_to_another(region):
    m = r3map.mount(region(4 << 20)[1], device="nbd")
    source = os.open(needs(m.path), os.O_RDWR)
    os.pwrite(source, b"through the kernel", 5000)
    with m.seed("127.0.0.1:0", on_suspend=lambda: None) as s:
        with r3map.leech(s.url, "memory:", device="nbd", prepare="path") as l:
            moved = l.finalize()
            expected = bytearray(pattern(4 << 20))
            expected[5000:5018] = b"through the kernel"
            with open(moved.path(), "rb") as there:
                assert there.read() == expected
            s.wait_drained(60)
            with pytest.raises(OSError):
                os.pwrite(source, b"x" * 4096, 0)
                os.fsync(source)
            moved.close()
    os.close(source)
    m.close()
