"""A cancel ends a call that waits for a backend, from another thread, and every later call it is given to."""

import threading

import pytest
import r3map
from conftest import Own


def test_a_cancel_ends_a_call_that_waits_and_every_later_one():
    own = Own(4096)
    with r3map.mount(own) as m:
        cancel = r3map.Cancel()
        bound = m.with_cancel(cancel)
        own.gate.clear()

        def trigger():
            own.entered.wait(20)
            cancel.trigger()

        thread = threading.Thread(target=trigger)
        thread.start()
        with pytest.raises(r3map.Cancelled):
            bound.read_at(1, 0)
        thread.join()
        own.gate.set()
        assert cancel.triggered
        for call in (bound.sync, lambda: bound.read_at(1, 0), r3map.open_backend(own).with_cancel(cancel).sync):
            with pytest.raises(r3map.Cancelled):
                call()
        assert m.read_at(1, 0) == own.data[:1]


def test_a_cancel_ends_a_wait_of_another_thread_that_has_no_end(server):
    with r3map.mount(server.export("m", "memory:?size=1MiB"), pull="demand") as m:
        cancel, ended = r3map.Cancel(), []

        def wait():
            try:
                m.with_cancel(cancel).next()
            except r3map.Error as error:
                ended.append(error.code)

        thread = threading.Thread(target=wait)
        thread.start()
        cancel.trigger()
        thread.join(20)
        assert ended == ["cancelled"]
