"""With `offline` a mount begins with its cache while the remote is away, keeps writes, and pushes them when it is back."""

import pytest
import r3map


def test_a_mount_that_is_offline_works_on_what_is_here_and_pushes_later(region, tmp_path):
    path, url = region(100000)
    options = {"cache": f"file://{tmp_path}/cache", "pull": "demand", "push_interval": 0, "deadline": 20}
    address = f"unix:{tmp_path}/socket"
    with r3map.serve(address) as server:
        remote = server.export("m", url)
        with r3map.mount(remote, **options) as m:
            here = m.read_at(100, 4096)
    with r3map.mount(remote, offline=True, **options) as m:
        away = m.next(0, timeout=20)
        assert away.kind == "disconnected" and away.cause is not None
        assert m.read_at(100, 4096) == here
        m.write_at(b"kept", 4100)
        with r3map.serve(address) as server:
            server.export("m", url)
            assert m.next(away.sequence, timeout=20).kind == "recovered"
            m.sync()
            assert path.read_bytes()[4100:4104] == b"kept"
            m.close()
    with pytest.raises(r3map.InvalidArgument, match="offline: needs a cache in a file"):
        r3map.mount(remote, offline=True)
