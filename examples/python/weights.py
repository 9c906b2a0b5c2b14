"""Weights of a model that lies behind a slow link, as numpy arrays: only what is touched is moved.

    weights.py             makes a model, serves it and reads some of it over a link of 30 ms
    weights.py URL NAME…   sums tensors of the safetensors file that is exported there
"""

from __future__ import annotations

import json
import pathlib
import struct
import sys
import tempfile
import time

import numpy as np
import r3map
from support.link import Link

ROUND_TRIP = 0.03
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


class Weights:
    """The tensors of a safetensors file, by name, as arrays over a region that is not read until it is touched."""

    def __init__(self, mount: r3map.Mount) -> None:
        self._memory = mount.slice()
        self._mount = mount
        (length,) = struct.unpack("<Q", self._bytes(0, 8))
        self._begin = 8 + length
        self.tensors = json.loads(bytes(self._bytes(8, self._begin)))
        self.tensors.pop("__metadata__", None)

    def _bytes(self, first: int, end: int) -> memoryview:
        # Touching them would do, page by page and with the interpreter's lock held. This brings all of them at once, lets
        # other threads run meanwhile, and raises where they cannot be had.
        self._mount.pull(first, end - first)
        return self._memory[first:end]

    def __getitem__(self, name: str) -> np.ndarray:
        found = self.tensors[name]
        first, end = (self._begin + offset for offset in found["data_offsets"])
        return np.frombuffer(self._bytes(first, end), TYPES[found["dtype"]]).reshape(found["shape"])

    def rows(self, name: str, first: int, count: int) -> np.ndarray:
        """Some rows of a tensor, without the rest."""
        found = self.tensors[name]
        begin, end = found["data_offsets"]
        row = (end - begin) // found["shape"][0]
        at = self._begin + begin + first * row
        return np.frombuffer(self._bytes(at, at + count * row), TYPES[found["dtype"]]).reshape(count, -1)


def make(file: pathlib.Path, layers: int = 24) -> None:
    """Writes a model of random numbers, some 100 MB, as safetensors lays it out: length, header in JSON, numbers."""
    shapes = {"embedding": (8192, 512)} | {f"layer.{i}.weight": (1024, 880) for i in range(layers)}
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    dice = np.random.default_rng(1)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            dice.standard_normal(shape, dtype=np.float32).tofile(out)


def read(url: str, names: list[str]) -> dict[str, float]:
    """Sums some tensors, and says how little was moved for it."""
    begun = time.monotonic()
    with r3map.mount(url, read_only=True, pull="demand") as mount:
        weights = Weights(mount)
        sums = {name: float(weights[name].sum(dtype=np.float64)) for name in names}
        if "embedding" in weights.tensors:
            sums["embedding[100:108]"] = float(weights.rows("embedding", 100, 8).sum(dtype=np.float64))
        moved, size = mount.stats()["pulled_bytes"], mount.size
    for name, value in sums.items():
        print(f"{name}: {value:.3f}")
    print(f"moved {moved} of {size} bytes ({moved / size:.1%}) in {time.monotonic() - begun:.2f} s")
    return sums


def demonstrate() -> None:
    with tempfile.TemporaryDirectory() as folder, r3map.serve("127.0.0.1:0") as server:
        file = pathlib.Path(folder, "model.safetensors")
        make(file)
        with Link(server.export("model", file.as_uri(), read_only=True), ROUND_TRIP) as link:
            found = read(link.url, ["layer.7.weight", "layer.23.weight"])
        with r3map.mount(file.as_uri(), read_only=True) as mount:
            whole = Weights(mount)
            assert all(found[name] == whole[name].sum(dtype=np.float64) for name in ("layer.7.weight", "layer.23.weight"))
            assert found["embedding[100:108]"] == whole["embedding"][100:108].sum(dtype=np.float64)
        print("every sum is that of the file itself")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        demonstrate()
    else:
        read(sys.argv[1], sys.argv[2:])
