"""On a real /dev/nbdX path, file and slice of one mount agree with each other, with the handle and with the store."""

# In the guest: --memory 1G

import io
import os

import r3map
from conftest import needs, pattern


def test_path_file_and_slice_agree_on_a_block_device(region):
    path, url = region(1 << 20)
    with r3map.mount(url, device="nbd") as m:
        device = needs(m.path)
        assert device.startswith("/dev/nbd") and m.device == "nbd"
        view = m.slice()
        assert len(view) == 1 << 20 and view[70000:70010] == pattern(1 << 20)[70000:70010]
        with m.file() as file, io.BufferedRandom(file) as buffered:
            buffered.seek(500000)
            buffered.write(b"by the file")
            buffered.flush()
            assert m.read_at(11, 500000) == b"by the file" == bytes(view[500000:500011])
        view[3] = 200
        with open(device, "rb") as other:
            other.seek(3)
            assert other.read(1) == b"\xc8"
        m.sync()
        assert path.read_bytes()[3] == 200 and path.read_bytes()[500000:500011] == b"by the file"
        view.release()


def test_a_file_has_the_regions_size_though_a_block_device_is_rounded_up(region):
    _, url = region(10001)
    with r3map.mount(url, device="nbd") as m, needs(m.file) as file:
        assert file.seek(0, os.SEEK_END) == 10001 and file.read() == b""
        file.seek(10000)
        assert file.read() == pattern(10001)[10000:]
