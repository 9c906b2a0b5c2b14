"""A server off loopback is reached by TLS and a token, and in no other way."""

import pytest
import r3map


def reached(server, name):
    """The URL of an export on this host, and what the line for clients says of it."""
    url = f"{server.url}/{name}".replace("0.0.0.0", "127.0.0.1")
    token, *command, pin, there = server.client_line(url).split(" ")
    assert (command, there) == (["r3map", "mount", "--tls-pin"], url)
    return url, {"tls_pin": pin, "token": token.removeprefix("R3MAP_TOKEN=")}


def test_a_server_off_loopback_is_reached_by_tls_and_a_token(tmp_path):
    with r3map.serve("0.0.0.0:0", state=tmp_path / "state") as server:
        assert server.url.startswith("r3maps://")
        server.export("region", "memory:?size=100000", allow=["client"])
        server.export("other", "memory:?size=100000", allow=["somebody"])
        url, credentials = reached(server, "region")
        with r3map.open_backend(url, **credentials) as backend:
            backend.write_at(b"by tls", 99_000)
            assert backend.read_at(6, 99_000) == b"by tls"
        with pytest.raises(r3map.PermissionDenied, match="other"):
            r3map.open_backend(reached(server, "other")[0], **credentials)
        for wrong, words in [
            ({"token": None}, "the server wants a token"),
            ({"token": "0123456789abcdef"}, "does not know this token"),
            ({"tls_pin": "00" * 32}, "another key than tls_pin says"),
        ]:
            with pytest.raises(r3map.NotAuthenticated, match=words):
                r3map.open_backend(url, **{**credentials, **wrong})
        with pytest.raises(r3map.NotAuthenticated, match="this server speaks TLS only"):
            r3map.open_backend(url.replace("r3maps", "r3map"))


def test_a_region_is_pulled_by_who_is_allowed(tmp_path):
    with r3map.serve("0.0.0.0:0", state=tmp_path / "state") as server, r3map.mount("memory:?size=100000") as m:
        with server.seed("state", m, allow=["client"]):
            url, credentials = reached(server, "state")
            with pytest.raises(r3map.NotAuthenticated):
                r3map.leech(url, "memory:", tls_pin=credentials["tls_pin"])
            with r3map.leech(url, "memory:", **credentials) as leecher:
                leecher.wait_local(1.0, 60)
        with server.seed("other", m, allow=["somebody"]), pytest.raises(r3map.PermissionDenied):
            r3map.leech(reached(server, "other")[0], "memory:", **credentials)


def test_a_seeder_off_loopback_says_how_its_leecher_does(tmp_path):
    with r3map.mount("memory:?size=100000") as m:
        m.write_at(b"moves", 500)
        with m.seed("0.0.0.0:0", state=tmp_path / "state") as seeder:
            token, *command, pin, _, local = seeder.client_line().split(" ")
            assert (command, local) == (["r3map", "leech", "--tls-pin"], "LOCAL")
            url = seeder.url.replace("0.0.0.0", "127.0.0.1")
            with r3map.leech(url, "memory:", tls_pin=pin, token=token.removeprefix("R3MAP_TOKEN=")) as leecher:
                leecher.wait_local(1.0, 60)
        with m.seed("127.0.0.1:0") as seeder:
            assert seeder.client_line() is None


def test_credentials_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(r3map.InvalidArgument, match='did you mean "token"'):
        r3map.serve(tokn="x")
    with pytest.raises(r3map.InvalidArgument, match="needs both"):
        r3map.serve(tls_cert=tmp_path / "cert.pem")
    with pytest.raises(r3map.InvalidArgument, match="tls_ca, or tls_pin"):
        r3map.open_backend("r3maps://127.0.0.1/x", token="0123456789abcdef")
