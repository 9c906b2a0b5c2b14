"""What is read travels as fewer bytes where compression is asked for, and as it is where it is off."""

import pytest
import r3map

SIZE = 1 << 20
REGION = bytes(index % 251 for index in range(SIZE))


def received(url, compression):
    """How many bytes came when all of the region was read."""
    with r3map.mount(url, compression=compression) as m:
        assert m.read_at(SIZE, 0) == REGION
        return m.stats()["received_bytes"]


def test_bytes_travel_packed_where_that_is_asked_for():
    with r3map.serve("127.0.0.1:0", compression="auto") as server, r3map.open_backend("memory:?size=1MiB") as memory:
        memory.write_at(REGION, 0)
        url = server.export("region", memory)
        assert received(url, "lz4") < SIZE / 2
        assert received(url, "zstd") < SIZE / 2
        assert received(url, "off") >= SIZE
        assert received(url, None) >= SIZE
        with pytest.raises(r3map.InvalidArgument, match='compression: unknown value "lz5"'):
            r3map.mount(url, compression="lz5")
    with pytest.raises(r3map.InvalidArgument, match='compression: unknown value "fast"'):
        r3map.serve("127.0.0.1:0", compression="fast")
