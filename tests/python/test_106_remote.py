"""What one program exports another opens by its URL, over TCP and over a UNIX socket."""

import subprocess
import sys

import r3map
from conftest import pattern

OTHER = """
import sys, r3map
with r3map.serve(sys.argv[1]) as server:
    print(server.export("a name/ü", sys.argv[2]), flush=True)
    sys.stdin.read()
"""


def test_another_process_serves_a_file(region, tmp_path):
    path, url = region(200001)
    for address in ("127.0.0.1:0", f"unix:{tmp_path}/socket"):
        with subprocess.Popen(
            [sys.executable, "-c", OTHER, address, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            with r3map.open_backend(other.stdout.readline().strip()) as remote:
                assert remote.read_at(200001, 0) == pattern(200001)
                remote.write_at(b"from afar", 77)
                remote.sync()
                assert path.read_bytes()[77:86] == b"from afar"
                remote.write_at(pattern(200001)[77:86], 77)
            other.stdin.close()
        assert other.returncode == 0
