"""A server may speak NBD or gRPC, and then says URLs by which their clients, r3map's own among them, open what it exports."""

import pytest
import r3map


@pytest.mark.parametrize("protocol", ["nbd", "grpc"])
def test_a_server_speaks_what_it_is_told_to(protocol, tmp_path):
    for address in ("127.0.0.1:0", f"unix:{tmp_path}/socket"):
        with r3map.open_backend("memory:?size=4096") as exported, r3map.serve(address, protocol=protocol) as server:
            url = server.export("region", exported)
            assert url.startswith(protocol)
            with r3map.open_backend(url) as remote:
                remote.write_at(b"hello", 4000)
                remote.sync()
            assert exported.read_at(5, 4000) == b"hello"


def test_a_protocol_that_is_none_is_refused():
    with pytest.raises(r3map.InvalidArgument, match="protocol"):
        r3map.serve(protocol="ndb")
    with pytest.raises(r3map.Unsupported, match="one export"), r3map.serve(protocol="grpc") as server:
        server.export("one", "memory:?size=1")
        server.export("two", "memory:?size=1")
