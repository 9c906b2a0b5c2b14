"""Stores to a slice at the source are in the slice at the destination, which was prepared before the pause."""

import numpy as np
import r3map
from conftest import needs


def test_stores_to_a_slice_move_with_the_region(region):
    m = r3map.mount(region(1 << 20)[1])
    numbers = np.frombuffer(needs(m.slice), dtype="<u4")
    numbers[:] = np.arange(len(numbers))

    def stop():
        numbers[1000] = 7

    with m.seed("127.0.0.1:0", on_suspend=stop) as s, r3map.leech(s.url, "memory:", prepare="slice") as l:
        l.wait_local(0.5, 30)
        moved = l.finalize()
        there = np.frombuffer(moved.slice(), dtype="<u4")
        moved.pull()
        expected = np.arange(len(there), dtype="<u4")
        expected[1000] = 7
        assert (there == expected).all()
        s.wait_drained(30)
        del there
        moved.close()
    del numbers
    m.close()
