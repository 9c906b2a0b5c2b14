"""Once a write was lost every sync and close says so, though the backend works again; discard ends the mount."""

import pytest
import r3map
from conftest import Own


def test_a_lost_write_fails_every_later_sync():
    own = Own(65536)
    m = r3map.mount(own)
    own.failures = [OSError(5, "broken")]
    with pytest.raises(r3map.Io):
        m.write_at(b"lost", 0)
    for _ in range(2):
        with pytest.raises(r3map.Io, match="an earlier write did not reach the backend"):
            m.sync()
    with pytest.raises(r3map.Io, match="stays open"):
        m.close()
    assert not m.closed
    m.discard()
    assert m.closed


def test_leaving_a_with_says_it_too_and_keeps_what_was_raised_inside():
    own = Own(65536)
    with pytest.raises(r3map.Io) as caught:
        with r3map.mount(own) as m:
            own.failures = [OSError(5, "broken")]
            m.write_at(b"lost", 0)
    assert isinstance(caught.value.__context__, r3map.Io)
    m.discard()


