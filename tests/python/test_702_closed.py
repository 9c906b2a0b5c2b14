"""After close every call fails closed, but for the size of a mount; leaving a `with` again does nothing."""

import pytest
import r3map


def test_a_closed_mount_and_backend_answer_closed():
    backend = r3map.open_backend("memory:?size=4096")
    m = r3map.mount(backend)
    m.close()
    backend.close()
    calls = [
        *(lambda it=it: it.read_at(1, 0) for it in (m, backend)),
        *(lambda it=it: it.read_into(bytearray(1), 0) for it in (m, backend)),
        *(lambda it=it: it.write_at(b"x", 0) for it in (m, backend)),
        *(it.sync for it in (m, backend)),
        *(it.close for it in (m, backend)),
        m.pull,
        m.prefetch,
        m.missing,
        m.wait_local,
        lambda: m.next(timeout=1),
        m.path,
        m.file,
        m.slice,
        m.stats,
        m.discard,
        lambda: backend.size,
        lambda: r3map.mount(backend),
    ]
    for call in calls:
        with pytest.raises(r3map.Closed) as caught:
            call()
        assert "closed" in str(caught.value) and isinstance(caught.value, ValueError)
    assert m.size == 4096 and m.closed and "closed" in repr(m) and "closed" in repr(backend)
    with m, backend:
        pass


def test_a_closed_server_answers_closed():
    server = r3map.serve("127.0.0.1:0")
    server.close()
    for call in (server.close, lambda: server.listen("127.0.0.1:0"), lambda: server.export("m", "memory:?size=1")):
        with pytest.raises(r3map.Closed):
            call()
    with server:
        pass
