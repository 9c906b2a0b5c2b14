"""pull makes a range resident, missing lists what is not here, wait_local waits for a share of it."""

import pytest
import r3map


def test_of_a_local_backend_nothing_is_missing_and_of_a_direct_remote_everything(server):
    with r3map.mount("memory:?size=100000") as m:
        assert m.missing() == []
        m.pull()
    url = server.export("m", "memory:?size=100000")
    with r3map.mount(url, mode="direct") as m:
        assert m.missing() == [(0, 100000)] and m.missing(5, 10) == [(5, 10)] and m.missing(5, 0) == []
        with pytest.raises(r3map.Unsupported, match="mode=managed"):
            m.pull(0, 1)


def test_pull_makes_resident_what_was_missing(server):
    url = server.export("m", "memory:?size=1MiB")
    with r3map.mount(url, pull="demand", chunk_size=65536) as m:
        assert m.missing() == [(0, 1 << 20)]
        m.pull(65536, 65536)
        assert m.missing() == [(0, 65536), (131072, (1 << 20) - 131072)]
        with pytest.raises(r3map.Timeout):
            m.wait_local(0.5, timeout=0.05)
        m.prefetch()
        heard = []
        m.wait_local(timeout=20, progress=lambda here, size: heard.append((here, size)))
        assert heard[-1] == (1 << 20, 1 << 20)
        assert m.missing() == []


def test_what_progress_raises_ends_the_wait(server):
    url = server.export("m", "memory:?size=1MiB")
    with r3map.mount(url, pull="demand") as m, pytest.raises(ZeroDivisionError):
        m.wait_local(progress=lambda here, size: 1 // 0)
