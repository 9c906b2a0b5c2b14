"""Mounts of a group move as one, under a server's name too, each to its own place."""

import pytest
import r3map
from conftest import pattern


def test_a_group_moves_as_one(region, server, tmp_path):
    sizes = (10001, 65536, 200003)
    mounts = [r3map.mount(region(size, f"part{size}")[1]) for size in sizes]
    group = r3map.Group()
    for m in mounts:
        group.add(m)
    with server.seed("all", group, on_suspend=lambda: b"together") as s:
        assert s.url is None
        places = [f"file://{tmp_path}/to{size}" for size in sizes]
        with r3map.leech(f"{server.url}/all", places) as l:
            moved = l.finalize_group()
            assert [m.size for m in moved] == list(sizes) and moved[0].payload == b"together"
            for m, size in zip(moved, sizes, strict=True):
                m.wait_local(timeout=30)
                assert m.read_at(size, 0) == pattern(size)
            s.wait_drained(30)
            for m in moved:
                m.close()
    for m in mounts:
        m.discard()
    for refused in (lambda: group.add(None), lambda: server.seed("x", "memory:"), lambda: group.seed(7)):
        with pytest.raises(TypeError):
            refused()
