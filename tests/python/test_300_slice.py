"""A slice shows what read_at reads; what is stored to it is read by read_at and synced to the store."""

import r3map
from conftest import needs, pattern


def test_slice_handle_and_store_agree(region):
    path, url = region(1000001)
    with r3map.mount(url) as m:
        view = needs(m.slice)
        assert (len(view), view.format, view.readonly) == (1000001, "B", False)
        assert view == pattern(1000001)
        m.write_at(b"by the handle", 4090)
        assert bytes(view[4090:4103]) == b"by the handle"
        view[1000000] = 7
        view[8190:8194] = b"view"
        assert m.read_at(1, 1000000) == b"\x07" and m.read_at(4, 8190) == b"view"
        m.sync()
        assert path.read_bytes()[8190:8194] == b"view"
        view.release()


def test_a_slice_of_a_remote_region_brings_pages_as_they_are_touched(server, region):
    url = server.export("m", region(300000)[1])
    with r3map.mount(url, pull="demand", chunk_size=4096) as m:
        view = needs(m.slice)
        assert bytes(view[100000:100010]) == pattern(300000)[100000:100010]
        here = 300000 - sum(length for _, length in m.missing())
        assert 0 < here < 300000
        view.release()
