"""A read-only mount reads, refuses writes with read_only, and says that it is one."""

import pytest
import r3map


def test_a_read_only_mount_reads_and_refuses_writes(region):
    path, url = region(8192)
    with r3map.mount(url, read_only=True) as m:
        assert m.read_only and m.read_at(8192, 0) == path.read_bytes()
        with pytest.raises(r3map.ReadOnly, match="read-only"):
            m.write_at(b"x", 0)
        m.sync()
