"""A link with a delay, for examples: what comes in at one port goes out at the other end so much later.

It is a process of its own. In the process that touches a slice it could not: a page that is touched is waited for with the
interpreter's lock held, which threads of Python need to bring it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections import deque


class Link:
    """Forwards connections to a server of this host. `round_trip` is in seconds; `url` leads through the link."""

    def __init__(self, url: str, round_trip: float) -> None:
        scheme, rest = url.split("://")
        address, name = rest.split("/", 1)
        command = [sys.executable, __file__, address, str(round_trip / 2)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"{scheme}://{self._process.stdout.readline().strip()}/{name}"

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def forward(host: str, port: int, delay: float) -> None:
    """Accepts connections until the process is ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        near, _ = listener.accept()
        far = socket.create_connection((host, port))
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for one, other in ((near, far), (far, near)):
            Direction(one, other, delay)


class Direction:
    """One way of a connection: a thread that reads, and one that sends what has waited long enough."""

    def __init__(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        self._source, self._target, self._delay = source, target, delay
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._more = threading.Semaphore(0)
        for work in (self._read, self._send):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        data = b"first"
        while data:
            try:
                data = self._source.recv(1 << 18)
            except OSError:
                data = b""
            self._under_way.append((time.monotonic() + self._delay, data))
            self._more.release()

    def _send(self) -> None:
        while True:
            self._more.acquire()
            due, data = self._under_way.popleft()
            time.sleep(max(due - time.monotonic(), 0))
            try:
                if not data:
                    self._target.shutdown(socket.SHUT_WR)
                    return
                self._target.sendall(data)
            except OSError:
                return


if __name__ == "__main__":
    address, _, port = sys.argv[1].rpartition(":")
    forward(address, int(port), float(sys.argv[2]))
