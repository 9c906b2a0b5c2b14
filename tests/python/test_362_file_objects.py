"""A file works under io.BufferedReader, io.TextIOWrapper, zipfile and mmap; sqlite3 works on a fuse path."""

import io
import mmap
import os
import sqlite3
import zipfile

import r3map
from conftest import needs, pattern


def test_buffered_and_text_layers_work_over_a_file(region):
    path, url = region(100003)
    path.write_bytes(b"line\n" * 20000 + b"end")
    with r3map.mount(url, device="fuse") as m:
        with io.TextIOWrapper(io.BufferedReader(needs(m.file))) as text:
            lines = text.readlines()
        assert len(lines) == 20001 and lines[-1] == "end"


def test_a_zip_archive_is_written_and_read_in_a_region():
    with r3map.mount("memory:?size=1MiB", device="fuse") as m:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as writer:
            writer.writestr("a.txt", pattern(10000))
            writer.comment = b" " * (32768)
        m.write_at(archive.getvalue(), (1 << 20) - len(archive.getvalue()))
        with zipfile.ZipFile(needs(m.file)) as reader:
            assert reader.read("a.txt") == pattern(10000)


def test_a_database_of_sqlite_lies_on_a_fuse_path(tmp_path):
    store = tmp_path / "database"
    with sqlite3.connect(store) as made:
        made.execute("create table t(number integer, name text)")
    made.close()
    with r3map.mount(f"file://{store}", device="fuse") as m:
        database = sqlite3.connect(needs(m.path))
        assert database.execute("select count(*) from t").fetchone() == (0,)
        database.close()
    with sqlite3.connect(store) as made:
        made.executemany("insert into t values (?, ?)", [(i, "x" * 100) for i in range(1000)])
    made.close()
    with r3map.mount(f"file://{store}", device="fuse") as m:
        database = sqlite3.connect(m.path())
        database.execute("pragma journal_mode=memory")
        database.execute("update t set name = 'changed' where number = 500")
        database.commit()
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        database.close()
    with sqlite3.connect(store) as made:
        assert made.execute("select name from t where number = 500").fetchone() == ("changed",)
    made.close()


def test_a_file_is_mapped(region):
    _, url = region(65536)
    with r3map.mount(url, device="fuse") as m, needs(m.file) as file:
        with mmap.mmap(file.fileno(), 65536) as mapped:
            assert mapped[60000:60010] == pattern(65536)[60000:60010]
            mapped[0:3] = b"map"
            mapped.flush()
        assert os.pread(file.fileno(), 3, 0) == b"map" == m.read_at(3, 0)
