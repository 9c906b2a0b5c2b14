"""Whatever lengths and offsets a mount is read and written with, the bytes are those of a plain array."""

import random

import pytest
import r3map
from conftest import needs

SIZE = 70001


@pytest.mark.parametrize("way", ["direct", "managed", "userfaultfd", "fuse"])
def test_odd_offsets_and_lengths_agree_with_an_array(way, server):
    options = {"mode": way} if way in ("direct", "managed") else {"device": way}
    url = server.export("m", f"memory:?size={SIZE}")
    dice, model = random.Random(4), bytearray(SIZE)
    with r3map.mount(url, **options) as m:
        if way in ("userfaultfd", "fuse"):
            kept = needs(m.slice if way == "userfaultfd" else m.path)
        for _ in range(300):
            offset = dice.choice((0, 1, 4095, 4096, dice.randrange(SIZE), SIZE - 1, SIZE))
            length = min(dice.choice((0, 1, 4096, 4097, dice.randrange(20000))), SIZE - offset)
            if dice.random() < 0.5:
                data = dice.randbytes(length)
                m.write_at(data, offset)
                model[offset : offset + length] = data
            else:
                assert m.read_at(length, offset) == model[offset : offset + length]
        assert m.read_at(SIZE, 0) == model
        m.sync()
        if way == "userfaultfd":
            assert kept == model
            kept.release()
    with r3map.open_backend(url) as backend:
        assert backend.read_at(SIZE, 0) == model
