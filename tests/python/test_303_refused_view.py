"""A view that the chosen device does not give is unsupported and names the devices that could."""

import pytest
import r3map
from conftest import Own, needs


def test_a_view_that_a_device_does_not_give_names_those_that_do():
    with r3map.mount("memory:?size=8192", device="fuse") as m:
        with pytest.raises(r3map.Unsupported, match="device=nbd or userfaultfd"):
            m.slice()
    with r3map.mount("memory:?size=8192", device="userfaultfd") as m:
        for refused in (m.path, m.file):
            with pytest.raises(r3map.Unsupported, match="device=nbd or fuse"):
                refused()


@pytest.mark.parametrize("mode", ["direct", "managed"])
def test_a_slice_over_a_backend_in_python_is_refused_with_what_to_do_instead(mode):
    with r3map.mount(Own(8192), mode=mode) as m:
        with pytest.raises(r3map.Unsupported, match="use read_at and write_at, or serve the backend from another process"):
            m.slice()
        assert len(m.read_at(8192, 0)) == 8192


def test_a_backend_in_python_under_another_mount_is_found_out_too():
    with r3map.mount(Own(8192)) as below, r3map.mount(below) as m:
        with pytest.raises(r3map.Unsupported, match="Python"):
            m.slice()


def test_a_file_over_a_backend_in_python_is_served():
    own = Own(8192)
    with r3map.mount(own, device="fuse") as m:
        with needs(m.file) as file:
            assert file.read(8192) == own.data
