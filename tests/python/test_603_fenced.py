"""After the commit the source is fenced: reads and writes fail, also when it is opened again."""

import pytest
import r3map
from conftest import needs


def give_away(m, *, name="region"):
    """Moves a region to memory; the mount it came to."""
    with m.seed("127.0.0.1:0", name=name, on_suspend=lambda: None) as s:
        with r3map.leech(s.url, "memory:") as l:
            moved = l.finalize()
            moved.wait_local(timeout=30)
            s.wait_drained(30)
            return moved


def test_a_region_that_was_given_away_is_fenced_here_and_when_it_is_opened_again(region):
    path, url = region(100000)
    m = r3map.mount(url)
    view = needs(m.slice)
    before = bytes(view)
    view.release()
    with give_away(m) as moved:
        for refused in (lambda: m.read_at(1, 0), lambda: m.write_at(b"x", 0), m.sync):
            with pytest.raises(r3map.Fenced):
                refused()
        moved.write_at(b"moved on", 0)
    m.discard()
    assert path.read_bytes() == before
    with pytest.raises(r3map.Fenced):
        r3map.mount(url).read_at(1, 0)
