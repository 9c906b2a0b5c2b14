"""A backend opens by its URL, says its size, and creates only what it is told to."""

import os

import pytest
import r3map


def test_a_backend_opens_by_its_url_and_says_its_size(region):
    path, url = region(12345)
    with r3map.open_backend(url) as backend:
        assert (backend.size, backend.read_only) == (12345, False)
        assert "region" in repr(backend)
    assert r3map.open_backend("memory:?size=1MiB").size == 1 << 20


def test_a_file_is_created_only_where_a_size_is_given(tmp_path):
    with pytest.raises(FileNotFoundError):
        r3map.open_backend(f"file://{tmp_path}/absent")
    r3map.open_backend(f"file://{tmp_path}/new?size=4097").close()
    assert os.path.getsize(tmp_path / "new") == 4097
