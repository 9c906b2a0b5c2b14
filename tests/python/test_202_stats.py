"""A mount counts what its handle reads and writes; stats are figures by name."""

import r3map


def test_stats_are_figures_by_name():
    with r3map.mount("memory:?size=100000") as m:
        m.read_at(1000, 0)
        m.read_into(bytearray(24), 5)
        m.write_at(b"x" * 77, 0)
        stats = m.stats()
    assert {name: stats[name] for name in ("size", "reads", "bytes_read", "writes", "bytes_written")} == {
        "size": 100000,
        "reads": 2,
        "bytes_read": 1024,
        "writes": 1,
        "bytes_written": 77,
    }
    assert all(isinstance(value, int) for value in stats.values())
