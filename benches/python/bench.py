"""Figures of the Python module, each beside its floor in the same run; see `run`."""

import os
import pathlib
import subprocess
import sys
import time
import zipfile

import numpy as np
import r3map

CALLS = 200_000
RUNS = 7


def least(measure, runs=RUNS):
    return min(measure() for _ in range(runs))


def read_into():
    with r3map.mount("memory:?size=64MiB") as mount:
        read, buffer = mount.read_into, bytearray(4096)
        offsets = [i % 1000 * 4096 for i in range(CALLS)]

        def turn():
            begun = time.perf_counter_ns()
            for offset in offsets:
                read(buffer, offset)
            return (time.perf_counter_ns() - begun) / CALLS

        return least(turn)


def seconds(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def sums():
    """Seconds to sum an array of one's own, and a slice that is resident: in turns, so that both meet the same load."""
    own = np.ones(1 << 28, dtype=np.float32)
    with r3map.mount("memory:?size=1GiB") as mount:
        ours = np.frombuffer(mount.slice(), dtype=np.float32)
        ours[:] = 1
        mount.sync()
        ours.sum()
        found = [(seconds(own.sum), seconds(ours.sum)) for _ in range(RUNS)]
        del ours
    return min(own for own, _ in found), min(ours for _, ours in found)


def importing():
    def once(program):
        return lambda: seconds(lambda: subprocess.run([sys.executable, "-c", program], check=True))

    return least(once("import r3map")) - least(once("pass"))


def main():
    c = float(subprocess.run([sys.argv[1]], capture_output=True, text=True, check=True).stdout)
    python = read_into()
    print(f"read_into of 4 KiB: {python:.0f} ns, C {c:.0f} ns: {python - c:.0f} ns more (bound: 1000)")
    own, ours = sums()
    print(f"numpy sum of 1 GiB: {ours:.3f} s over a slice, {own:.3f} s over its own array: {own / ours:.2f} (bound: 0.95)")
    print(f"import r3map: {importing() * 1000:.1f} ms (bound: 30)")
    library = pathlib.Path(r3map._r3map.__file__).resolve()
    stripped = pathlib.Path(sys.argv[1]).with_name("stripped.so")
    subprocess.run(["strip", "-o", stripped, library], check=True)
    packed = stripped.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(stripped)
    sizes = [os.path.getsize(file) / (1 << 20) for file in (stripped, packed)]
    print(f"module: {sizes[0]:.1f} MiB stripped, {sizes[1]:.1f} MiB as it lies in a wheel (bound: 12)")


if __name__ == "__main__":
    main()
