"""A fuse path is a regular file of the exact size, and agrees with read_at and write_at."""

import os

import r3map
from conftest import needs


def test_a_path_is_a_regular_file_that_other_programs_open():
    with r3map.mount("memory:?size=100001", device="fuse") as m:
        path = needs(m.path)
        assert isinstance(path, str) and os.path.isfile(path) and os.path.getsize(path) == 100001
        assert m.device == "fuse"
        with open(path, "r+b") as file:
            file.seek(99999)
            file.write(b"ab")
        assert m.read_at(2, 99999) == b"ab"
        m.write_at(b"handle", 0)
        with open(path, "rb") as file:
            assert file.read(6) == b"handle"
    assert not os.path.exists(path) or os.path.getsize(path) == 0


def test_the_path_may_be_one_of_ones_own(tmp_path):
    with r3map.mount("memory:?size=5000", device="fuse", at=tmp_path / "here") as m:
        assert needs(m.path) == str(tmp_path / "here")
        assert os.path.getsize(tmp_path / "here") == 5000
