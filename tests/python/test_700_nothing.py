"""None or a wrong type where something is needed is an error, and nothing is touched."""

import pytest
import r3map


def test_none_and_wrong_types_are_type_errors(server):
    backend = r3map.open_backend("memory:?size=4096")
    m = r3map.mount(backend)
    refused = [
        lambda it: it.read_at(None, 0),
        lambda it: it.read_at(1, None),
        lambda it: it.read_at(1.5, 0),
        lambda it: it.read_at("1", 0),
        lambda it: it.read_at(),
        lambda it: it.read_into(None, 0),
        lambda it: it.read_into(bytearray(1), "0"),
        lambda it: it.write_at(None, 0),
        lambda it: it.write_at("text", 0),
        lambda it: it.write_at(7, 0),
        lambda it: it.with_cancel(None),
    ]
    for call in refused:
        for it in (backend, m):
            with pytest.raises(TypeError):
                call(it)
    for call in (
        lambda: r3map.mount(),
        lambda: r3map.mount(None),
        lambda: r3map.open_backend(None),
        lambda: r3map.serve(7),
        lambda: server.export(None, backend),
        lambda: server.export("x", None),
        lambda: server.listen(None),
        lambda: m.wait_local("all"),
        lambda: m.wait_local(timeout="soon"),
        lambda: m.wait_local(progress=3),
        lambda: m.next(after="first"),
        lambda: m.pull("0"),
        lambda: r3map.Mount(),
        lambda: r3map.Backend(),
    ):
        with pytest.raises(TypeError):
            call()
    assert m.read_at(4096, 0) == bytes(4096)
