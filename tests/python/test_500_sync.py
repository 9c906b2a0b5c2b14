"""After sync the bytes are in the file, before the mount is closed; close syncs too, discard does not fail."""

import r3map


def test_after_sync_and_after_close_the_bytes_are_at_the_store(server, region):
    path, url = region(10000)
    remote = server.export("m", url)
    with r3map.mount(remote, push_interval=0) as m:
        m.write_at(b"synced", 5000)
        assert path.read_bytes()[5000:5006] != b"synced"
        m.sync()
        assert path.read_bytes()[5000:5006] == b"synced"
        m.write_at(b"closed", 6000)
    assert path.read_bytes()[6000:6006] == b"closed"
    m = r3map.mount(remote, push_interval=0)
    m.write_at(b"dropped", 0)
    m.discard()
    assert path.read_bytes()[:7] != b"dropped" and m.closed
