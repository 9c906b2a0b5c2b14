"""An export is read-only if told so, takes a name once, and off loopback plain TCP has to be asked for."""

import pytest
import r3map


def test_an_export_is_read_only_where_told(server):
    url = server.export("ro", "memory:?size=4096", read_only=True)
    with r3map.open_backend(url) as backend:
        assert backend.read_only
        with pytest.raises(r3map.ReadOnly):
            backend.write_at(b"x", 0)


def test_a_name_is_taken_once(server):
    server.export("name", "memory:?size=4096")
    with pytest.raises(r3map.Busy, match="name"):
        server.export("name", "memory:?size=4096")
    with pytest.raises(r3map.InvalidArgument):
        server.export("", "memory:?size=4096")


def test_plain_tcp_off_loopback_has_to_be_asked_for():
    with pytest.raises(r3map.Error, match="insecure"):
        r3map.open_backend("r3map://192.0.2.1/x")
    with r3map.serve("0.0.0.0:0", insecure=True) as server:
        assert server.url.startswith("r3map://0.0.0.0:")


def test_a_mount_is_exported_and_options_of_a_url_are_refused_for_it(server):
    with r3map.mount("memory:?size=4096") as m:
        m.write_at(b"mounted", 0)
        with r3map.open_backend(server.export("m", m)) as remote:
            assert remote.read_at(7, 0) == b"mounted"
        with pytest.raises(r3map.InvalidArgument, match="token"):
            server.export("n", m, token="secret")
