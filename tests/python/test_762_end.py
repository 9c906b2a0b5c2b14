"""An interpreter ends in order with everything still open: mounts, views, servers, backends in Python in use."""

import subprocess
import sys

import pytest

PROGRAMS = {
    "everything open": """
import r3map
server = r3map.serve("127.0.0.1:0")
m = r3map.mount(server.export("m", "memory:?size=1MiB"))
view = m.slice()
view[0] = 1
backend = r3map.open_backend("memory:?size=1")
""",
    "a backend in Python that is being pulled and pushed": """
import r3map, time
class Own:
    size = 1 << 26
    def read_at(self, length, offset): time.sleep(0.001); return bytes(length)
    def write_at(self, data, offset): time.sleep(0.001)
    def sync(self): pass
m = r3map.mount(Own(), mode="managed", push_interval=0.001)
m.write_at(b"x" * 65536, 0)
server = r3map.serve("127.0.0.1:0")
n = r3map.mount(server.export("own", Own()))
n.write_at(b"x" * 65536, 1 << 20)
""",
    "a thread that waits": """
import r3map, threading
m = r3map.mount("memory:?size=4096")
threading.Thread(target=m.next, daemon=True).start()
""",
    "threads whose calls end in that moment": """
import r3map, threading, time
m = r3map.mount("memory:?size=1MiB")
def work():
    while True:
        m.read_at(4096, 0)
def wait():
    while True:
        try:
            m.next(timeout=0.001)
        except r3map.Timeout:
            pass
for target in (work, wait, wait, wait):
    threading.Thread(target=target, daemon=True).start()
s = m.seed("127.0.0.1:0", on_resume=print)
time.sleep(0.2)
s.close()
""",
    "a log that leads to logging": """
import logging, r3map
logging.basicConfig(level=logging.DEBUG)
r3map.log_to(logging.getLogger("r3map"))
r3map.mount("memory:?size=4096").close()
""",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interpreter_ends_in_order_with(program):
    ended = subprocess.run([sys.executable, "-c", PROGRAMS[program]], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended
    assert "Fatal" not in ended.stderr and "Traceback" not in ended.stderr
