"""Prints an initial file system for the guest: initrd.py INIT MODULES-DIRECTORY MODULE…

It holds INIT as /init, the modules with all that they need, and /modules, their names in loading order.
"""

import os
import sys


def needed(directory, wanted):
    """The files of modules and of those they need, each after what it needs."""
    needs = {}
    with open(os.path.join(directory, "modules.dep"), encoding="ascii") as lines:
        for line in lines:
            path, _, rest = line.partition(":")
            needs[path] = rest.split()
    by_name = {os.path.basename(path).removesuffix(".ko").replace("-", "_"): path for path in needs}
    order = []
    for name in wanted:
        # modules.dep lists what a module needs nearest first.
        for path in [*reversed(needs[by_name[name]]), by_name[name]]:
            if path not in order:
                order.append(path)
    return order


def entry(name, mode, content=b""):
    """One file of a cpio archive in the `newc` form: thirteen numbers in hexadecimal, the name, the content."""
    number, links, name = entry.number, 1, name.encode() + b"\0"
    entry.number += 1
    numbers = [number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in numbers) + name
    return padded(header) + padded(content)


entry.number = 1


def padded(data):
    return data + b"\0" * (-len(data) % 4)


def main():
    init, directory, *wanted = sys.argv[1:]
    modules = needed(directory, wanted)
    names = [os.path.basename(path) for path in modules]
    out = sys.stdout.buffer
    with open(init, "rb") as file:
        out.write(entry("init", 0o100755, file.read()))
    out.write(entry("modules", 0o100644, "".join(f"/{name}\n" for name in names).encode()))
    for name, path in zip(names, modules):
        with open(os.path.join(directory, path), "rb") as file:
            out.write(entry(name, 0o100644, file.read()))
    out.write(entry("TRAILER!!!", 0))


if __name__ == "__main__":
    main()
