"""A seeder tells its events in order: waiting, tracking, suspending, committed, drained; each once, none left out."""

import threading

import pytest
import r3map
from conftest import pattern


def test_the_events_of_a_hand_over_come_in_order(region):
    _, url = region(300001)
    with r3map.mount(url) as m, m.seed("127.0.0.1:0", name="state") as s:
        assert s.url.endswith("/state") and "state" in repr(s)
        states = []

        def app():
            for event in s:
                states.append((event.sequence, event.state))
                if event.state == "suspending":
                    s.suspended(event)
                if event.state == "drained":
                    return

        thread = threading.Thread(target=app)
        thread.start()
        with r3map.leech(s.url, "memory:") as l:
            l.wait_local(1.0, timeout=30)
            with l.finalize() as moved:
                moved.wait_local(timeout=30)
                assert moved.read_at(moved.size, 0) == pattern(300001)
                s.wait_drained(30)
                thread.join(30)
        names = [state for _, state in states]
        assert [number for number, _ in states] == list(range(1, len(states) + 1))
        assert names[-3:] == ["suspending", "committed", "drained"] and names.index("tracking") < names.index("suspending")


def test_waiting_for_an_event_ends_with_timeout_and_iterating_with_close():
    with r3map.mount("memory:?size=8192") as m:
        s = m.seed("127.0.0.1:0")
        assert s.next(timeout=10).state == "waiting"
        with pytest.raises(r3map.Timeout):
            s.next(timeout=0.02)
        assert s.next(0, 10).sequence == 1
        assert s.stats()["epoch"] >= 0
        s.close()
        assert list(s) == [] and "closed" in repr(s)


def test_what_cannot_be_seeded_is_refused():
    with r3map.mount("memory:?size=8192") as m:
        with pytest.raises(r3map.InvalidArgument, match="did you mean \"name\""):
            m.seed("127.0.0.1:0", nam="x")
        with pytest.raises(TypeError, match="on_suspend"):
            m.seed("127.0.0.1:0", on_suspend=3)
        with pytest.raises(TypeError):
            m.seed(None)
        with m.seed("127.0.0.1:0"), pytest.raises(r3map.Busy):
            m.seed("127.0.0.1:0")
