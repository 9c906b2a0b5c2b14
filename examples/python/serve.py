"""Offers a file to others until its input ends: serve.py FILE [NAME [ADDRESS]]"""

import pathlib
import sys

import r3map


def main(file: str, name: str = "file", address: str = "127.0.0.1:0") -> None:
    with r3map.serve(address) as server:
        print(server.export(name, pathlib.Path(file).absolute().as_uri()), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 4):
        sys.exit("usage: serve.py FILE [NAME [ADDRESS]]")
    main(*sys.argv[1:])
