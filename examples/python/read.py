"""Writes a remote file to standard output: read.py r3map://host:7070/name

Nothing but the module is needed for it: no device, no privilege.
"""

import sys

import r3map

STEP = 1 << 20


def main() -> None:
    with r3map.mount(sys.argv[1], read_only=True) as mount:
        for offset in range(0, mount.size, STEP):
            # What comes next is on its way in the background meanwhile.
            sys.stdout.buffer.write(mount.read_at(min(STEP, mount.size - offset), offset))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: read.py URL")
    main()
