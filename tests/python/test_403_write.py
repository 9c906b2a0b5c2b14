"""A write changes its bytes and no others."""

import r3map
from conftest import pattern


def test_a_write_changes_its_bytes_and_no_others(region):
    path, url = region(50001)
    model = bytearray(pattern(50001))
    with r3map.mount(url) as m:
        for offset, data in ((0, b"a"), (4095, b"bc"), (50000, b"d"), (10000, b"e" * 9000), (7, b"")):
            m.write_at(data, offset)
            model[offset : offset + len(data)] = data
            assert m.read_at(50001, 0) == model
    assert path.read_bytes() == model
