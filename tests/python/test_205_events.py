"""Events of a mount come in order with their numbers; waiting for one that does not come ends with timeout."""

import pytest
import r3map
from conftest import Own


def test_waiting_for_an_event_ends_with_timeout_where_there_is_none():
    with r3map.mount("memory:?size=8192") as m, pytest.raises(TimeoutError):
        m.next(timeout=0.02)


def test_a_push_that_failed_and_then_got_through_is_told_with_its_cause():
    own = Own(65536)
    own.failures = [OSError(5, "broken")]
    with r3map.mount(own, mode="managed", pull="demand", push_interval=0.02) as m:
        m.write_at(b"x" * 65536, 0)
        first = m.next(timeout=20)
        assert (first.sequence, first.kind) == (1, "push_failed") and isinstance(first.cause, r3map.Io)
        kinds = [first.kind]
        while kinds[-1] != "recovered":
            last = m.next(first.sequence + len(kinds) - 1, 20)
            kinds.append(last.kind)
        assert "push_failed" in repr(first)
        m.sync()
