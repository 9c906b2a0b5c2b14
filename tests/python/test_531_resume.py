"""A second mount goes on with the cache of the first: what it has is not pulled again, what was not pushed is pushed."""

import r3map


def test_a_second_mount_goes_on_with_the_cache_of_the_first(server, region, tmp_path):
    path, url = region(100000)
    options = {"cache": f"file://{tmp_path}/cache", "pull": "demand", "push_interval": 0}
    remote = server.export("m", url)
    with r3map.mount(remote, **options) as m:
        m.pull(0, 100000)
        m.write_at(b"kept", 5000)
    for _ in range(2):
        with r3map.mount(remote, **options) as m:
            assert m.stats()["local_bytes"] == 100000 and m.missing() == []
            assert m.read_at(4, 5000) == b"kept"
            assert m.stats()["pulled_bytes"] == 0
    assert path.read_bytes()[5000:5004] == b"kept"
