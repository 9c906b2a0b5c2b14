"""The order of first accesses is saved and pulled first by a later mount."""

import pytest
import r3map


def test_the_order_of_first_accesses_is_saved_and_pulled_first_by_a_later_mount(server, tmp_path):
    url = server.export("m", "memory:?size=1MiB")
    trace = tmp_path / "trace"
    with r3map.mount(url, pull="demand") as m:
        m.read_at(10, 40960)
        m.trace_save(trace)
        with pytest.raises(r3map.NotFound, match="/nowhere"):
            m.trace_save("/nowhere/at/all")
    with r3map.mount(url, pull="demand", trace=trace) as m:
        m.wait_local(1 / 256, timeout=60)
        assert m.missing(40960, 4096) == [] and m.missing(0, 4096) == [(0, 4096)]
        assert m.stats()["read_ahead_bytes"] <= 4096
    other = server.export("other", "memory:?size=2MiB")
    with pytest.raises(r3map.InvalidArgument, match=str(trace)):
        r3map.mount(other, trace=trace)
