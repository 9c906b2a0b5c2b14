"""What was leeched is a mount like any other: it is seeded again, and again, and every byte arrives."""

import r3map
from conftest import pattern


def test_a_region_moves_three_times(region, tmp_path):
    model = bytearray(pattern(200003))
    m = r3map.mount(region(200003)[1])
    for hop in range(3):
        word = b"hop %d" % hop
        m.write_at(word, hop * 50000)
        model[hop * 50000 : hop * 50000 + len(word)] = word
        with m.seed("127.0.0.1:0", on_suspend=lambda hop=hop: b"%d" % hop) as s:
            with r3map.leech(s.url, f"file://{tmp_path}/hop{hop}") as l:
                moved = l.finalize()
                assert moved.payload == b"%d" % hop
                moved.wait_local(timeout=30)
                s.wait_drained(30)
        m.discard()
        m = moved
        assert m.read_at(200003, 0) == model
    m.close()
    assert (tmp_path / "hop2").read_bytes() == model
