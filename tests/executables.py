#!/usr/bin/env python3
"""Prints the test executables in the messages of `cargo test --no-run --message-format=json`, one a line: all, or those
of the targets named (`lib`, or the name of a file in tests/)."""

import json
import sys


def executables(lines):
    """Yields (package, target, executable, directory of the package, source) of each test executable."""
    for line in lines:
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") != "compiler-artifact" or not message.get("executable"):
            continue
        if message["profile"]["test"]:
            directory = message["manifest_path"].removesuffix("/Cargo.toml")
            target = message["target"]
            kinds = {"lib", "cdylib", "staticlib"} & set(target["kind"])
            name = "lib" if kinds else target["name"]
            yield directory.rsplit("/", 1)[1], name, message["executable"], directory, target["src_path"]


if __name__ == "__main__":
    wanted = set(sys.argv[1:])
    for _, target, path, *_ in executables(sys.stdin):
        if not wanted or target in wanted:
            print(path)
