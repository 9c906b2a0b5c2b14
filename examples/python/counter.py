"""Adds one to a counter that lives elsewhere and is used here as memory: counter.py r3map://host:7070/name

One after another, any number of hosts may do so; the first eight bytes of the region are the counter.
"""

import sys

import r3map


def main() -> None:
    with r3map.mount(sys.argv[1]) as mount, mount.slice() as memory:
        counter = memory[:8].cast("Q")
        counter[0] += 1  # the first touch brings the page here
        print(counter[0])
        counter.release()
    # Leaving the mount made the new value durable where it lives.


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: counter.py URL")
    main()
