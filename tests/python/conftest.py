"""What the tests of the Python module share."""

import errno
import os
import threading

import pytest
import r3map


def pattern(length, seed=0):
    """Bytes that differ from place to place."""
    block = bytes((index * 7 + index // 251 + seed) % 256 for index in range(min(length, 64007)))
    return (block * (length // max(len(block), 1) + 1))[:length]


class Own:
    """A backend in Python that counts its calls, may be held up, and fails as told."""

    def __init__(self, size, **attributes):
        self.data = bytearray(pattern(size))
        self.calls = []
        self.failures = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        for name, value in attributes.items():
            setattr(self, name, value)

    @property
    def size(self):
        return len(self.data)

    def _called(self, name):
        self.calls.append(name)
        self.entered.set()
        self.gate.wait(20)
        if self.failures:
            raise self.failures.pop(0)

    def read_at(self, length, offset):
        self._called("read")
        return self.data[offset : offset + length]

    def write_at(self, data, offset):
        self._called("write")
        self.data[offset : offset + len(data)] = data

    def sync(self):
        self._called("sync")


@pytest.fixture
def region(tmp_path):
    """A file of that many bytes: its path and its URL."""

    def make(length, name="region"):
        path = tmp_path / name
        path.write_bytes(pattern(length))
        return path, f"file://{path}"

    return make


@pytest.fixture
def server():
    with r3map.serve("127.0.0.1:0") as server:
        yield server


def needs(call, *arguments):
    """The result of a call that needs a device; skips where this machine has none."""
    try:
        return call(*arguments)
    except (r3map.NoDevice, r3map.PermissionDenied) as missing:
        # The guest has what this kernel lacks, and there nothing is skipped.
        if "R3MAP_IN_GUEST" in os.environ:
            raise
        word = "LEFT TO THE GUEST" if "nbd" in str(missing) else "SKIPPED"
        pytest.skip(f"{word}: {missing}")


def in_child(body):
    """Runs a function in a forked child; gives its exit status and what it returned, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(body()).encode())
            os._exit(0)
        except BaseException as raised:
            os.write(writer, repr(raised).encode())
            os._exit(1)
    os.close(writer)
    with open(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def descriptors():
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


__all__ = ["Own", "descriptors", "errno", "in_child", "needs", "pattern"]
