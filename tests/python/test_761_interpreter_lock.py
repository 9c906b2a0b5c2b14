"""A call that waits lets other threads of Python run."""

import threading

import r3map
from conftest import Own


def test_other_threads_run_while_a_call_waits():
    own = Own(65536)
    own.gate.clear()
    opened = r3map.open_backend(own)
    with r3map.mount(own) as m:
        calls = [
            lambda: m.read_at(1, 0),
            lambda: m.read_into(bytearray(1), 0),
            lambda: m.write_at(b"x", 0),
            m.sync,
            lambda: opened.read_at(1, 0),
            lambda: opened.write_at(b"x", 0),
            opened.sync,
        ]
        for call in calls:
            own.gate.clear()
            own.entered.clear()

            def let_go():
                # Runs only if the call below has let go of the lock.
                own.entered.wait(20)
                own.gate.set()

            thread = threading.Thread(target=let_go)
            thread.start()
            call()
            thread.join()
