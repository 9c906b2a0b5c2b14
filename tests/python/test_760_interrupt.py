"""Ctrl-C ends a call that waits, and what a signal handler raises reaches the caller."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import r3map
from conftest import Own

WAITS = """
import sys, threading, time, signal, r3map
signal.signal(signal.SIGINT, signal.default_int_handler)
class Slow:
    size = 8192
    def read_at(self, length, offset):
        print("waiting", flush=True); time.sleep(30)
with r3map.serve("127.0.0.1:0") as server:
    url = server.export("m", "memory:?size=1MiB")
    m = r3map.mount(url, pull="demand")
    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    m.discard()
"""
CALLS = {
    "next": 'print("waiting", flush=True); m.next()',
    "wait_local": 'print("waiting", flush=True); m.wait_local()',
    "read": "r3map.mount(Slow()).read_at(1, 0)",
}


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_ends_a_call_that_waits(call):
    program = WAITS.replace("{call}", CALLS[call])
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout.readline() == "waiting\n"
        waiting.send_signal(signal.SIGINT)
        assert waiting.stdout.readline() == "interrupted\n"
        waiting.kill()


def test_a_handler_that_does_not_raise_lets_the_call_go_on():
    own, heard = Own(4096), []
    before = signal.signal(signal.SIGUSR1, lambda *_: (heard.append(1), own.gate.set()))
    try:
        own.gate.clear()

        def send():
            own.entered.wait(20)
            os.kill(os.getpid(), signal.SIGUSR1)

        thread = threading.Thread(target=send)
        thread.start()
        with r3map.mount(own) as m:
            assert m.read_at(4, 0) == own.data[:4]
        thread.join()
        assert heard == [1]
    finally:
        signal.signal(signal.SIGUSR1, before)
