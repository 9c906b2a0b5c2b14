"""Negative, huge and unknown numbers are errors, before any memory is asked for."""

import pytest
import r3map

HUGE = [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200]


@pytest.mark.parametrize("number", [-1, -(1 << 63), -(1 << 70), *HUGE])
def test_offsets_and_lengths_outside_the_region_are_out_of_range(number):
    with r3map.mount("memory:?size=4096") as m, r3map.open_backend("memory:?size=4096") as backend:
        for call in (
            lambda: m.read_at(1, number),
            lambda: m.read_at(number, 0),
            lambda: m.read_at(number, number),
            lambda: m.write_at(b"x", number),
            lambda: m.read_into(bytearray(1), number),
            lambda: m.pull(number, 1),
            lambda: m.pull(0, number),
            lambda: m.prefetch(number, 1),
            lambda: m.missing(1, number),
            lambda: backend.read_at(number, 0),
            lambda: backend.read_at(1, number),
            lambda: backend.write_at(b"x", number),
        ):
            with pytest.raises(r3map.OutOfRange):
                call()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_share_lies_between_0_and_1(share):
    with r3map.mount("memory:?size=4096") as m, pytest.raises(r3map.InvalidArgument):
        m.wait_local(share)


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), float("inf"), 1e300])
def test_times_are_finite_and_not_negative(timeout):
    with r3map.mount("memory:?size=4096") as m, pytest.raises(r3map.InvalidArgument):
        m.next(timeout=timeout)
    with pytest.raises(r3map.InvalidArgument):
        r3map.mount("memory:?size=4096", deadline=timeout)


def test_booleans_and_numpy_integers_are_numbers():
    numpy = pytest.importorskip("numpy")
    with r3map.mount("memory:?size=4096") as m:
        assert m.read_at(numpy.int64(4), numpy.uint8(3)) == bytes(4)
