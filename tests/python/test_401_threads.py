"""One handle is used by many threads at once, each on a part of its own."""

import concurrent.futures

import r3map
from conftest import pattern

THREADS, PART = 8, 100003


def test_many_threads_use_one_handle(server):
    url = server.export("m", f"memory:?size={THREADS * PART}")
    with r3map.mount(url) as m:

        def work(number):
            for turn in range(10):
                data = pattern(PART, seed=number + turn)
                m.write_at(data, number * PART)
                assert m.read_at(PART, number * PART) == data
                m.stats()
            m.sync()

        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
