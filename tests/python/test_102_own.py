"""An object of Python's own with size, read_at, write_at and sync stands wherever a backend may."""

import gc
import weakref

import pytest
import r3map
from conftest import Own, pattern


@pytest.mark.parametrize("mode", ["direct", "managed"])
def test_an_object_is_read_written_and_synced_by_its_methods_and_let_go_of(mode):
    own = Own(300001)
    with r3map.mount(own, mode=mode) as m:
        assert m.read_at(m.size, 0) == pattern(300001)
        m.write_at(b"x" * 70000, 3)
        m.sync()
        assert own.data[3:70003] == b"x" * 70000 and own.data[70003] == pattern(300001)[70003]
        assert "sync" in own.calls
    gone = weakref.ref(own)
    del own, m
    gc.collect()
    assert gone() is None


def test_an_object_without_write_at_is_read_only_and_its_size_may_be_a_method():
    class Zeros:
        def size(self):
            return 10

        def read_at(self, length, offset):
            return memoryview(bytes(length))

    with r3map.open_backend(Zeros()) as backend:
        assert backend.read_only and backend.read_at(10, 0) == bytes(10)
        with pytest.raises(r3map.ReadOnly):
            backend.write_at(b"x", 0)


def test_it_is_exported_and_mounted_elsewhere(server):
    own = Own(10001)
    with r3map.mount(server.export("own", own)) as m:
        m.write_at(b"through", 10)
    assert own.data[10:17] == b"through"
