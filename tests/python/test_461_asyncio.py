"""Every call that waits has a twin for asyncio; cancelling its task ends it."""

import asyncio

import pytest
import r3map
from conftest import Own, pattern
from r3map import aio


def test_reads_and_writes_are_awaited_and_run_at_once(server, region):
    path, url = region(300000)

    async def use():
        async with aio.mount(server.export("m", url), pull="demand") as m:
            parts = await asyncio.gather(*(m.read_at(30000, i * 30000) for i in range(10)))
            assert b"".join(parts) == pattern(m.size)
            buffer = bytearray(5)
            await m.read_into(buffer, 10)
            assert buffer == pattern(300000)[10:15]
            await m.write_at(b"awaited", 0)
            await m.pull()
            await m.wait_local(1.0, timeout=20)
            await m.sync()
            assert path.read_bytes()[:7] == b"awaited"
        assert m.wrapped.closed
        backend = await aio.open_backend(server.url + "/m")
        assert await backend.read_at(7, 0) == b"awaited"
        await backend.close()

    asyncio.run(use())


def test_a_cancelled_task_ends_its_call_and_the_mount_goes_on():
    own = Own(8192)

    async def use():
        async with aio.mount(own) as m:
            own.gate.clear()
            task = asyncio.create_task(m.read_at(10, 0))
            await asyncio.to_thread(own.entered.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            own.gate.set()
            assert await m.read_at(10, 0) == own.data[:10]

    asyncio.run(use())


def test_a_timeout_of_asyncio_ends_a_wait_that_has_none(server):
    async def use():
        async with aio.mount(server.export("m", "memory:?size=1MiB"), pull="demand") as m:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await m.next()
            with pytest.raises(r3map.OutOfRange):
                await m.read_at(1, 1 << 20)

    asyncio.run(use())
