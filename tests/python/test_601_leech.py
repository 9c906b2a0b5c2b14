"""A leecher pulls a region while it is in use, into memory or a file, and says how far it is."""

import pytest
import r3map
from conftest import pattern


def test_a_region_is_pulled_while_it_is_in_use(region, tmp_path):
    _, url = region(500003)
    with r3map.mount(url) as m, m.seed("127.0.0.1:0") as s:
        with r3map.leech(s.url, f"file://{tmp_path}/local") as l:
            heard = []
            l.wait_local(1.0, 30, progress=lambda here, size: heard.append((here, size)))
            assert heard[-1] == (500003, 500003)
            assert l.state in ("pulling", "outpaced") and l.state in repr(l)
            m.write_at(b"written meanwhile", 77)
            stats = l.stats()
            assert stats["size"] == 500003 and stats["pulled_bytes"] > 0
        assert m.read_at(17, 77) == b"written meanwhile"


def test_what_cannot_be_leeched_is_refused(server, tmp_path):
    plain = server.export("plain", "memory:?size=4096")
    with pytest.raises(r3map.Error):
        r3map.leech(plain, "memory:")
    with r3map.mount("memory:?size=8192") as m, m.seed("127.0.0.1:0") as s:
        with pytest.raises(r3map.NotFound):
            r3map.leech(s.url + "x", "memory:")
        with pytest.raises(r3map.Unsupported):
            r3map.leech(s.url, f"dir://{tmp_path}/d")
        (tmp_path / "another").write_bytes(pattern(8192))
        with pytest.raises(r3map.Busy):
            r3map.leech(s.url, f"file://{tmp_path}/another")
        r3map.leech(s.url, f"file://{tmp_path}/another", overwrite=True).close()
        with pytest.raises(TypeError):
            r3map.leech(s.url, None)
        with pytest.raises(r3map.Error, match="prepare"):
            r3map.mount("memory:?size=1", prepare="slice")
