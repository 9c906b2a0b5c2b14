"""A thousand openings and closings leave no descriptor, thread, object or memory behind."""

import gc
import os
import resource
import sys
import time

import r3map
from conftest import Own, descriptors, needs


def threads():
    return len(os.listdir("/proc/self/task"))


def settled(count, limit, seconds=60):
    """Threads that end are told to before they are gone, and those of a pool when they found nothing to do for 5 s."""
    until = time.monotonic() + seconds
    while count() > limit and time.monotonic() < until:
        time.sleep(0.02)
    return count()


def once(server, number):
    # Read-only: a writer may be told that the one before still writes, where the machine is busy.
    with r3map.mount(f"{server.url}/m", read_only=True) as m:
        m.read_at(10, 1000)
        m.stats()
    own = Own(100)
    with r3map.open_backend(own) as backend:
        backend.read_at(10, 0)
    try:
        backend.sync()
    except r3map.Closed:
        pass
    if number % 10 == 0:
        with r3map.mount("memory:?size=8192") as m:
            view = needs(m.slice)
            view[0] = 1
        del view
        with r3map.serve("127.0.0.1:0") as other:
            other.export("x", "memory:?size=4096")


def test_a_thousand_openings_and_closings_leave_nothing_behind(server):
    server.export("m", "memory:?size=1MiB")
    for number in range(50):
        once(server, number)
    gc.collect()
    before = (settled(descriptors, 0, 10), threads(), len(gc.get_objects()), sys.getrefcount(None))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(1000):
        once(server, number)
    gc.collect()
    assert settled(descriptors, before[0]) <= before[0]
    assert settled(threads, before[1]) <= before[1]
    assert len(gc.get_objects()) - before[2] < 500
    assert abs(sys.getrefcount(None) - before[3]) < 500
    # KiB; a page lost at each turn would be 4000.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 16 << 10
