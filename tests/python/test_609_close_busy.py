"""Closing a seeder between the commit and the last byte is busy; abandon gives the rest up."""

import subprocess
import sys

import pytest
import r3map

TAKES = """
import sys, time, r3map
leecher = r3map.leech(sys.argv[1], "memory:", pull="demand")
mount = leecher.finalize()
print("taken", flush=True)
time.sleep(600)
"""


def test_closing_before_the_last_byte_is_busy_and_abandon_gives_it_up(region):
    m = r3map.mount(region(64 << 20)[1])
    s = m.seed("127.0.0.1:0", on_suspend=lambda: None)
    with subprocess.Popen([sys.executable, "-c", TAKES, s.url], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "taken\n"
        other.kill()
    for _ in range(2):
        with pytest.raises(r3map.Busy):
            s.close()
    with pytest.raises(r3map.Busy, match="seeder"):
        m.close()
    s.abandon()
    s.wait_drained(30)
    s.close()
    with pytest.raises(r3map.Fenced):
        m.read_at(1, 0)
    m.close()
