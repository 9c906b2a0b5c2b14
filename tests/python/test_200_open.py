"""A mount opens without a device, keeps its backend, and stands where a backend may."""

import r3map
from conftest import pattern


def test_a_mount_needs_no_device_and_keeps_its_backend(region):
    path, url = region(10000)
    backend = r3map.open_backend(url)
    with r3map.mount(backend) as m:
        del backend
        assert (m.size, m.device, m.closed) == (10000, None, False)
        with r3map.mount(m, read_only=True) as second:
            assert second.read_at(10000, 0) == pattern(10000)
        m.write_at(b"on", 9998)
    assert m.closed and m.size == 10000
    assert path.read_bytes()[-2:] == b"on"
