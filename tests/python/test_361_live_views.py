"""close with live views syncs, then raises BufferError; leaving a `with` leaves the end to the last view."""

import gc

import numpy as np
import pytest
import r3map
from conftest import descriptors, needs


def test_close_with_live_views_syncs_and_refuses(region):
    path, url = region(8192)
    m = r3map.mount(url)
    numbers = np.frombuffer(needs(m.slice), dtype=np.uint8)
    numbers[5] = 99
    with pytest.raises(BufferError, match="a view of the slice still live"):
        m.close()
    assert path.read_bytes()[5] == 99 and not m.closed
    with pytest.raises(BufferError):
        m.discard()
    numbers[6] = 98
    assert m.read_at(1, 6) == b"b"
    del numbers
    m.close()
    assert path.read_bytes()[6] == 98


def test_after_a_with_the_last_view_syncs_and_detaches(region):
    path, url = region(8192)
    before = descriptors()
    with r3map.mount(url) as m:
        view = needs(m.slice)
        part = np.frombuffer(view, dtype=np.uint8)[4096:]
        view.release()
        part[0] = 1
    assert m.closed and path.read_bytes()[4096] == 1
    with pytest.raises(r3map.Closed, match="with"):
        m.read_at(1, 0)
    part[1] = 2
    assert part[1] == 2 and path.read_bytes()[4097] != 2
    del part
    assert path.read_bytes()[4097] == 2
    with pytest.raises(r3map.Closed):
        m.close()
    del view, m
    gc.collect()
    assert descriptors() <= before


def test_a_view_keeps_the_region_alive_though_the_mount_is_gone(region):
    _, url = region(8192)
    view = needs(r3map.mount(url).slice)
    gc.collect()
    assert view[1] == 7
    view[1] = 8
    assert view[1] == 8
    view.release()


def test_no_view_is_made_of_a_closed_mount():
    m = r3map.mount("memory:?size=8192")
    view = needs(m.slice)
    lender = view.obj
    view.release()
    m.close()
    with pytest.raises((BufferError, r3map.Closed)):
        memoryview(lender)


def test_a_last_sync_that_fails_is_told_and_leaves_the_mount_open(region, monkeypatch, server):
    url = server.export("m", region(8192)[1])
    told = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    with r3map.mount(url, deadline=0.5) as m:
        view = needs(m.slice)
    view[0] = 1
    server.close()
    view.release()
    assert [error.code for error in told] == ["disconnected"] or isinstance(told[0], r3map.Error)
    assert not m.closed
    m.discard()
