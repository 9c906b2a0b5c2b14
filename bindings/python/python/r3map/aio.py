"""The same for asyncio: every call that waits is a coroutine, the rest is as it was.

    async with r3map.aio.mount("r3map://127.0.0.1:7070/model") as m:
        first, last = await asyncio.gather(m.read_at(4096, 0), m.read_at(4096, m.size - 4096))

A call runs on a thread of its own pool. One whose task is cancelled is cancelled too, and, like one that timed out, may or
may not have taken effect. `m.wrapped` is the object of `r3map` under it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack

import r3map

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .file import File
    from .options import BackendLike

P = ParamSpec("P")
T = TypeVar("T")


class _Cancellable(Protocol):
    def with_cancel(self, cancel: r3map.Cancel, /) -> Self: ...
    def close(self) -> None: ...


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Cancellable)
O = TypeVar("O", bound="_Object[Any]")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # Calls wait and do not compute: as many as there may be waits at once.
    return ThreadPoolExecutor(max_workers=256, thread_name_prefix="r3map-aio")


async def _apart(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(_pool(), functools.partial(call, *args, **kwargs))


class _Object(Generic[C]):
    """What wraps a mount or a backend."""

    def __init__(self, wrapped: C) -> None:
        self.wrapped = wrapped

    async def _call(self, call: Callable[[C], T]) -> T:
        """Makes a call on the wrapped object that ends when this task is cancelled."""
        cancel = r3map.Cancel()
        bound = self.wrapped.with_cancel(cancel)
        running = asyncio.get_running_loop().run_in_executor(_pool(), call, bound)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            cancel.trigger()
            # A buffer of the caller's is not touched any more after this.
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await _apart(self.wrapped.__exit__, *raised)  # type: ignore[attr-defined]


class _Opening(Generic[O]):
    """What `mount` and its like return: to be awaited, or entered by `async with`."""

    def __init__(self, kind: Callable[[Any], O], opened: Callable[[], Any]) -> None:
        self._kind, self._opened = kind, opened
        self._object: O | None = None

    async def _open(self) -> O:
        running = asyncio.get_running_loop().run_in_executor(_pool(), self._opened)
        try:
            return self._kind(await asyncio.shield(running))
        except asyncio.CancelledError:
            running.add_done_callback(_close_late)
            raise

    def __await__(self) -> Generator[Any, Any, O]:
        return self._open().__await__()

    async def __aenter__(self) -> O:
        self._object = await self._open()
        return self._object

    async def __aexit__(self, *raised: object) -> None:
        assert self._object is not None
        await self._object.__aexit__(*raised)


def _close_late(running: asyncio.Future[_Closable]) -> None:
    """Closes what was opened after nobody waited for it any more."""
    if not running.cancelled() and running.exception() is None:
        _pool().submit(running.result().close)


class Backend(_Object[r3map.Backend]):
    """Where bytes live."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.wrapped.size

    async def read_at(self, length: int, offset: int) -> bytes:
        """As `r3map.Backend.read_at`."""
        return await self._call(lambda backend: backend.read_at(length, offset))

    async def read_into(self, buffer: Buffer, offset: int) -> None:
        """As `r3map.Backend.read_into`."""
        return await self._call(lambda backend: backend.read_into(buffer, offset))

    async def write_at(self, data: Buffer, offset: int) -> None:
        """As `r3map.Backend.write_at`."""
        return await self._call(lambda backend: backend.write_at(data, offset))

    async def sync(self) -> None:
        """As `r3map.Backend.sync`."""
        return await self._call(lambda backend: backend.sync())

    async def close(self) -> None:
        """As `r3map.Backend.close`."""
        return await self._call(lambda backend: backend.close())


class Mount(_Object[r3map.Mount]):
    """A backend as a region of this host."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.wrapped.size

    async def read_at(self, length: int, offset: int) -> bytes:
        """As `r3map.Mount.read_at`."""
        return await self._call(lambda mount: mount.read_at(length, offset))

    async def read_into(self, buffer: Buffer, offset: int) -> None:
        """As `r3map.Mount.read_into`."""
        return await self._call(lambda mount: mount.read_into(buffer, offset))

    async def write_at(self, data: Buffer, offset: int) -> None:
        """As `r3map.Mount.write_at`."""
        return await self._call(lambda mount: mount.write_at(data, offset))

    async def sync(self) -> None:
        """As `r3map.Mount.sync`."""
        return await self._call(lambda mount: mount.sync())

    async def pull(self, offset: int = 0, length: int | None = None) -> None:
        """As `r3map.Mount.pull`."""
        return await self._call(lambda mount: mount.pull(offset, length))

    async def wait_local(self, share: float = 1.0, timeout: float | None = None) -> None:
        """As `r3map.Mount.wait_local`."""
        return await self._call(lambda mount: mount.wait_local(share, timeout))

    async def next(self, after: int | None = None, timeout: float | None = None) -> r3map.Event:
        """As `r3map.Mount.next`."""
        return await self._call(lambda mount: mount.next(after, timeout))

    async def path(self) -> str:
        """As `r3map.Mount.path`."""
        return await self._call(lambda mount: mount.path())

    async def file(self) -> File:
        """As `r3map.Mount.file`; the file object itself blocks."""
        return await self._call(lambda mount: mount.file())

    async def slice(self) -> memoryview:
        """As `r3map.Mount.slice`; touching what is not here blocks: `pull` it first."""
        return await self._call(lambda mount: mount.slice())

    def seed(self, listen: str, /, **options: Unpack[r3map.SeedOptions]) -> _Opening[Seeder]:
        """As `r3map.Mount.seed`: `s = await m.seed(…)` or `async with m.seed(…) as s`."""
        return _Opening(Seeder, functools.partial(self.wrapped.seed, listen, **options))

    async def close(self) -> None:
        """As `r3map.Mount.close`."""
        return await self._call(lambda mount: mount.close())

    async def discard(self) -> None:
        """As `r3map.Mount.discard`."""
        return await self._call(lambda mount: mount.discard())


class Seeder(_Object[r3map.Seeder]):
    """The side that a region moves away from: `async for event in seeder`."""

    @property
    def url(self) -> str | None:
        """As `r3map.Seeder.url`."""
        return self.wrapped.url

    def client_line(self) -> str | None:
        """As `r3map.Seeder.client_line`."""
        return self.wrapped.client_line()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> r3map.SeedEvent:
        event = await self._call(lambda seeder: next(seeder, None))
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self, after: int | None = None, timeout: float | None = None) -> r3map.SeedEvent:
        """As `r3map.Seeder.next`."""
        return await self._call(lambda seeder: seeder.next(after, timeout))

    async def suspended(self, event: r3map.SeedEvent | int, payload: Buffer = b"") -> None:
        """As `r3map.Seeder.suspended`."""
        return await self._call(lambda seeder: seeder.suspended(event, payload))

    async def refuse(self, event: r3map.SeedEvent | int, reason: str) -> None:
        """As `r3map.Seeder.refuse`."""
        return await self._call(lambda seeder: seeder.refuse(event, reason))

    async def wait_drained(self, timeout: float | None = None) -> None:
        """As `r3map.Seeder.wait_drained`."""
        return await self._call(lambda seeder: seeder.wait_drained(timeout))

    async def close(self) -> None:
        """As `r3map.Seeder.close`."""
        return await self._call(lambda seeder: seeder.close())


class Leecher(_Object[r3map.Leecher]):
    """The side that a region moves to."""

    async def wait_local(self, share: float = 1.0, timeout: float | None = None) -> None:
        """As `r3map.Leecher.wait_local`."""
        return await self._call(lambda leecher: leecher.wait_local(share, timeout))

    async def finalize(self) -> Mount:
        """As `r3map.Leecher.finalize`."""
        return Mount(await self._call(lambda leecher: leecher.finalize()))

    async def finalize_when(self, when: str, timeout: float | None = None) -> Mount:
        """As `r3map.Leecher.finalize_when`."""
        return Mount(await self._call(lambda leecher: leecher.finalize_when(when, timeout)))

    async def close(self) -> None:
        """As `r3map.Leecher.close`."""
        return await self._call(lambda leecher: leecher.close())


def leech(url: str, local: str, /, **options: Unpack[r3map.LeechOptions]) -> _Opening[Leecher]:
    """As `r3map.leech`: `l = await leech(…)` or `async with leech(…) as l`."""
    return _Opening(Leecher, functools.partial(r3map.leech, url, local, **options))


def mount(backend: BackendLike, /, **options: Unpack[r3map.MountOptions]) -> _Opening[Mount]:
    """As `r3map.mount`: `m = await mount(url)` or `async with mount(url) as m`."""
    return _Opening(Mount, functools.partial(r3map.mount, backend, **options))


def open_backend(backend: BackendLike, /, **options: Unpack[r3map.BackendOptions]) -> _Opening[Backend]:
    """As `r3map.open_backend`."""
    return _Opening(Backend, functools.partial(r3map.open_backend, backend, **options))
