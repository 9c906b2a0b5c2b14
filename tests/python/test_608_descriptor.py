"""A leecher goes over a socket that was connected elsewhere; it and the seeder are waited for in asyncio too."""

import asyncio
import socket

import r3map
from conftest import pattern
from r3map import aio


def test_a_region_moves_over_a_connected_socket(region):
    with r3map.serve() as server, r3map.mount(region(100000)[1]) as m:
        with server.seed("state", m, on_suspend=lambda: None) as s:
            ours, theirs = socket.socketpair()
            server.handle(theirs)
            with r3map.leech(ours, "memory:", name="state") as l:
                assert ours.fileno() == -1
                with l.finalize() as moved:
                    moved.wait_local(timeout=30)
                    assert moved.read_at(100000, 0) == pattern(100000)
                    s.wait_drained(30)


def test_a_region_moves_in_asyncio(region):
    async def app(seeder):
        async for event in seeder:
            if event.state == "suspending":
                await seeder.suspended(event, b"awaited")
            if event.state == "drained":
                return event.sequence

    async def move():
        async with aio.mount(region(100000)[1]) as m, m.seed("127.0.0.1:0") as s:
            task = asyncio.create_task(app(s))
            async with aio.leech(s.url, "memory:") as l:
                await l.wait_local(0.9, 30)
                async with await l.finalize() as moved:
                    await moved.wait_local(timeout=30)
                    assert moved.wrapped.payload == b"awaited"
                    assert await moved.read_at(100000, 0) == pattern(100000)
                    assert await task > 3

    asyncio.run(move())
