"""An own backend is called by no more threads at once than its attribute `concurrency` allows."""

import threading
import time

import pytest
import r3map
from conftest import Own


class Counting(Own):
    now = most = 0
    lock = threading.Lock()

    def read_at(self, length, offset):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.005)
        with self.lock:
            self.now -= 1
        return bytes(length)


@pytest.mark.parametrize("allowed", [1, 3])
def test_no_more_calls_are_under_way_than_it_allows(allowed):
    own = Counting(1 << 20, concurrency=allowed)
    with r3map.mount(own) as m:
        threads = [threading.Thread(target=lambda i=i: m.read_at(100, i * 4096)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert own.most <= allowed
