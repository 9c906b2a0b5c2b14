"""The second close fails closed and harms nothing, also where many threads close at once."""

import threading

import pytest
import r3map


def test_the_second_close_fails_closed_and_harms_nothing(region):
    path, url = region(8192)
    with r3map.serve("127.0.0.1:0") as server:
        for thing in (r3map.open_backend(url), r3map.mount(url), r3map.serve("127.0.0.1:0")):
            thing.close()
            with pytest.raises(r3map.Closed):
                thing.close()
        with r3map.mount(server.export("m", url)) as m:
            m.write_at(b"still", 0)
    assert path.read_bytes()[:5] == b"still"


def test_of_many_closes_at_once_one_succeeds():
    m, outcomes = r3map.mount("memory:?size=4096"), []

    def close():
        try:
            m.close()
            outcomes.append("closed it")
        except r3map.Closed:
            outcomes.append("was closed")

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["closed it"] + ["was closed"] * 7 and m.closed
