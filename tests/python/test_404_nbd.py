"""By path, slice and handle of a real /dev/nbdX, odd offsets and lengths read and write what an array would."""

# In the guest: --memory 1G

import random

import r3map
from conftest import needs, pattern

SIZE = 70001


def test_every_view_of_a_block_device_agrees_with_an_array(region):
    stored, url = region(SIZE)
    dice, model = random.Random(4), bytearray(pattern(SIZE))
    with r3map.mount(url, device="nbd") as m, open(needs(m.path), "r+b", buffering=0) as device, m.slice() as view:
        for turn in range(300):
            offset = dice.randrange(SIZE)
            end = offset + dice.randrange(SIZE - offset + 1)
            data, way = dice.randbytes(end - offset), ("handle", "path", "slice")[turn % 3]
            device.seek(offset)
            if dice.random() < 0.5:
                model[offset:end] = data
                if way == "handle":
                    m.write_at(data, offset)
                elif way == "path":
                    assert device.write(data) == len(data)
                else:
                    view[offset:end] = data
            elif way == "handle":
                assert m.read_at(end - offset, offset) == model[offset:end]
            elif way == "path":
                assert device.read(end - offset) == model[offset:end]
            else:
                assert view[offset:end] == model[offset:end]
        m.sync()
        assert stored.read_bytes() == model
