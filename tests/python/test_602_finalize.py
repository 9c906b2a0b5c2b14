"""After finalize the region is here, with every byte that the app there wrote before it stopped."""

import pytest
import r3map
from conftest import needs, pattern


def test_finalize_hands_out_every_byte_that_was_written(region, tmp_path):
    _, url = region(300001)
    m = r3map.mount(url)

    def stop():
        m.write_at(b"the last words", 299000)
        return None

    with m.seed("127.0.0.1:0", on_suspend=stop) as s:
        m.write_at(b"first", 0)
        with r3map.leech(s.url, f"file://{tmp_path}/local", prepare="slice") as l:
            l.wait_local(0.5, 30)
            with needs(l.finalize) as moved:
                model = bytearray(pattern(300001))
                model[0:5] = b"first"
                model[299000:299014] = b"the last words"
                view = moved.slice()
                moved.pull()
                assert view == model
                view[1] = 1
                view.release()
                moved.sync()
                s.wait_drained(30)
            assert l.state in ("complete", "owner")
    m.discard()
    assert (tmp_path / "local").read_bytes()[:2] == b"f\x01"


def test_finalize_when_waits_for_a_share(region):
    with r3map.mount(region(100000)[1]) as m, m.seed("127.0.0.1:0", on_suspend=lambda: None) as s:
        with r3map.leech(s.url, "memory:") as l:
            with pytest.raises(r3map.InvalidArgument):
                l.finalize_when("soon")
            with l.finalize_when("95%", 30) as moved:
                moved.wait_local(timeout=30)
                assert moved.read_at(100000, 0) == pattern(100000)
            s.wait_drained(30)
