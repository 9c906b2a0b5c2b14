"""A connected socket serves at one end and is a backend at the other; the library owns it from success on."""

import os
import socket

import pytest
import r3map
from conftest import descriptors


def test_a_socket_pair_carries_a_region():
    with r3map.serve() as server:
        assert server.url is None and server.export("m", "memory:?size=8192") is None
        ours, theirs = socket.socketpair()
        server.handle(theirs)
        assert theirs.fileno() == -1
        with r3map.connect(ours, "m") as backend:
            assert ours.fileno() == -1
            backend.write_at(b"hello", 8187)
            assert backend.read_at(5, 8187) == b"hello"


def test_a_descriptor_by_number_is_taken_too_and_stays_the_callers_on_failure():
    with r3map.serve() as server:
        server.export("m", "memory:?size=8192")
        ours, theirs = socket.socketpair()
        server.handle(theirs.detach())
        before = descriptors()
        number = ours.detach()
        with pytest.raises(r3map.NotFound, match="another"):
            r3map.connect(number, "another")
        os.close(number)
        assert descriptors() <= before
    with pytest.raises(r3map.InvalidArgument, match="not open"):
        r3map.connect(987654, "m")
    with pytest.raises(AttributeError):
        r3map.connect("socket", "m")
