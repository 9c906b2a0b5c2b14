"""What the app gives along arrives with the mount; a mount that did not move has none."""

import pytest
import r3map


@pytest.mark.parametrize("payload", [b"", b"\x00position 7\xff", bytes(1 << 20)])
def test_the_payload_arrives_as_it_was_given(payload):
    with r3map.mount("memory:?size=8192") as m:
        assert m.payload == b""
        with m.seed("127.0.0.1:0", on_suspend=lambda: bytearray(payload)) as s, r3map.leech(s.url, "memory:") as l:
            with l.finalize() as moved:
                assert moved.payload == payload
                moved.wait_local(timeout=30)
            s.wait_drained(30)
