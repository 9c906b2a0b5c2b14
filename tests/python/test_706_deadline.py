"""A call ends with timeout at the deadline of its mount, though the backend has not answered."""

import pytest
import r3map
from conftest import Own


def test_a_call_ends_at_the_deadline():
    own = Own(4096)
    with r3map.mount(own, deadline=0.1) as m:
        own.gate.clear()
        with pytest.raises(TimeoutError) as caught:
            m.read_at(1, 0)
        assert caught.value.code == "timeout" and caught.value.retryable
        own.gate.set()
        assert m.read_at(1, 0) == own.data[:1]


def test_none_waits_for_ever_and_zero_not_at_all():
    with r3map.mount("memory:?size=4096") as m:
        with pytest.raises(r3map.Timeout):
            m.next(timeout=0)
        with pytest.raises(r3map.InvalidArgument):
            m.next(timeout=-1)
