"""The examples do what they say, used together as one would."""

import os
import pathlib
import struct
import subprocess
import sys

import pytest
from conftest import pattern

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "python"


def run(name, *arguments):
    return subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True, timeout=250)


@pytest.fixture
def served(tmp_path):
    """A file served by an example, and its URL."""
    file = tmp_path / "a file"
    file.write_bytes(bytes(8) + pattern(3000001))
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "serve.py", file, "state"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as serving:
        yield file, serving.stdout.readline().strip()
        serving.stdin.close()
    assert serving.returncode == 0


def test_a_remote_file_is_read(served):
    file, url = served
    assert run("read.py", url).stdout == file.read_bytes()


def test_a_counter_is_shared(served):
    file, url = served
    for expected in (b"1\n", b"2\n", b"3\n"):
        done = run("counter.py", url)
        assert done.stdout == expected, done.stderr
    assert struct.unpack("<Q", file.read_bytes()[:8]) == (3,)


def test_an_example_without_arguments_says_how_it_is_used():
    for name in ("read.py", "counter.py", "serve.py"):
        done = run(name)
        assert done.returncode != 0 and b"usage" in done.stderr


def test_weights_are_read_lazily_over_a_slow_link():
    done = run("weights.py")
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    assert "every sum is that of the file itself" in said
    moved, size = (int(word) for word in said.split("moved ")[1].split() if word.isdigit())
    assert size > 100_000_000 and 7_000_000 < moved < 10_000_000


def test_the_model_of_the_example_is_a_real_safetensors_file(tmp_path):
    sys.path.insert(0, os.fspath(EXAMPLES))
    try:
        import weights
    finally:
        sys.path.pop(0)
    from safetensors.numpy import load_file

    file = tmp_path / "model.safetensors"
    weights.make(file, layers=2)
    with weights.r3map.mount(file.as_uri(), read_only=True) as mount:
        ours, theirs = weights.Weights(mount), load_file(file)
        assert set(ours.tensors) == set(theirs) == {"embedding", "layer.0.weight", "layer.1.weight"}
        for name in theirs:
            assert (ours[name] == theirs[name]).all()
        assert (ours.rows("embedding", 5, 3) == theirs["embedding"][5:8]).all()
