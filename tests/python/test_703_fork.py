"""In a forked child the parent's objects fail closed and dropping them harms nothing; the parent goes on."""

import gc
import multiprocessing

import r3map
from conftest import in_child, needs, pattern


def test_in_a_forked_child_every_call_fails_closed_and_the_parent_goes_on(server, region):
    url = server.export("m", region(100000)[1])
    backend, m = r3map.open_backend(server.export("n", "memory:?size=9")), r3map.mount(url)
    view = needs(m.slice)
    whole = bytes(view)

    def child():
        nonlocal backend, m
        codes = []
        for call in (
            lambda: m.read_at(1, 0),
            m.sync,
            m.slice,
            m.close,
            lambda: backend.read_at(1, 0),
            lambda: server.export("x", "memory:?size=1"),
            server.close,
        ):
            try:
                call()
                codes.append("none")
            except r3map.Error as error:
                codes.append(error.code)
        with r3map.mount("memory:?size=10") as own:
            own.write_at(b"child", 0)
            codes.append(own.read_at(5, 0).decode())
        del m, backend
        gc.collect()
        return codes

    assert in_child(child) == (0, str(["closed"] * 7 + ["child"]))
    assert m.read_at(100000, 0) == pattern(100000) == whole
    assert backend.read_at(9, 0) == bytes(9)
    view[0] = 55
    view.release()
    m.close()
    assert r3map.open_backend(url).read_at(1, 0) == b"7"


def _work(url):
    with r3map.mount(url) as m:
        return len(m.read_at(m.size, 0))


def test_workers_of_multiprocessing_open_their_own(server, region):
    url = server.export("m", region(5000)[1])
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(_work, [url, url]) == [5000, 5000]
