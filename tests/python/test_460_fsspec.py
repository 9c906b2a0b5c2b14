"""An export is a file to fsspec, found by its scheme: read in parts, written in place, wrapped in text."""

import csv
import io

import fsspec
import pytest
import r3map
from conftest import pattern
from r3map.fs import R3mapFileSystem

# What an installed wheel says by its entry point.
fsspec.register_implementation("r3map", R3mapFileSystem, clobber=True)
fsspec.register_implementation("r3map+unix", R3mapFileSystem, clobber=True)


def test_an_export_is_opened_by_its_url_and_read_in_parts(server, region):
    url = server.export("table", region(300001)[1])
    with fsspec.open(url) as file:
        file.seek(299990)
        assert file.read() == pattern(300001)[299990:]
        assert file.seek(0, io.SEEK_END) == 300001
    files = fsspec.filesystem("r3map")
    assert files.size(url) == 300001 and files.exists(url) and not files.exists(url + "absent")
    assert files.cat_file(url, 5, 15) == pattern(300001)[5:15]
    assert files.ls(url, detail=False) == [url]


def test_text_and_csv_are_read_through_it(server, region):
    path, url = region(1)
    path.write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(1000)))
    with fsspec.open(server.export("csv", url), "rt") as text:
        rows = list(csv.DictReader(text))
    assert rows[999] == {"a": "999", "b": "998001"}


def test_an_export_is_written_in_place_and_durable_when_closed(server, region):
    path, url = region(10000)
    with fsspec.open(server.export("w", url), "r+b") as file:
        file.seek(5000)
        file.write(b"in place")
    assert path.read_bytes()[5000:5008] == b"in place"
    assert path.read_bytes()[:5000] == pattern(10000)[:5000]


def test_a_socket_of_the_machine_is_a_url_too(tmp_path, region):
    with r3map.serve(f"unix:{tmp_path}/socket") as local:
        with fsspec.open(local.export("m", region(1000)[1])) as file:
            assert file.read() == pattern(1000)


def test_a_mode_that_would_make_or_grow_a_file_is_refused(server):
    url = server.export("m", "memory:?size=10")
    for mode in ("wb", "ab", "xb"):
        with pytest.raises(r3map.Unsupported, match="rb or r.b"):
            fsspec.filesystem("r3map").open(url, mode)
