"""A remote that is gone is an error by the deadline, and never zeros; what is here is still read."""

import pytest
import r3map


def test_a_remote_that_is_gone_is_an_error_by_the_deadline(region):
    server = r3map.serve("127.0.0.1:0")
    with r3map.mount(server.export("m", region(1 << 20)[1]), pull="demand", chunk_size=65536, deadline=0.5) as m:
        here = m.read_at(100, 0)
        server.close()
        with pytest.raises((r3map.Disconnected, r3map.Timeout)) as caught:
            m.read_at(100, 1 << 19)
        assert caught.value.retryable and isinstance(caught.value, OSError)
        assert m.read_at(100, 0) == here
        m.discard()


def test_nobody_who_listens_is_disconnected_or_refused_soon():
    with r3map.serve("127.0.0.1:0") as server:
        url = server.url
    with pytest.raises(ConnectionError):
        r3map.open_backend(f"{url}/m")
