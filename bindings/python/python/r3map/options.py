"""What functions take: options by name, and objects that stand for a backend. The names are those of every language.

An option that is `None` or left out has its default. Sizes are numbers of bytes or text such as `"64KiB"`, times seconds,
text such as `"250ms"`, or a `datetime.timedelta`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from datetime import timedelta

    from typing_extensions import Buffer

    from ._r3map import Backend, Mount

Size: TypeAlias = "int | str"
Time: TypeAlias = "float | str | timedelta"
Range: TypeAlias = "tuple[int, int] | tuple[int, int, int]"


class Readable(Protocol):
    """A backend of your own that is only read. Its methods are called from several threads at once, unless an attribute
    `concurrency` says how many. Further attributes: `name`, for messages, `chunk_size` and `read_only`."""

    @property
    def size(self) -> int:
        """Size in bytes; asked for once."""

    def read_at(self, length: int, offset: int, /) -> Buffer:
        """The bytes at an offset: all of them, or raise. An `r3map.Error` keeps its code, and is tried again until the
        deadline if it is `retryable`; an `OSError` gets the code of its errno; anything else is `r3map.Io`."""


class Writable(Readable, Protocol):
    """A backend of your own that is read and written."""

    def write_at(self, data: bytes, offset: int, /) -> object:
        """Stores the bytes at an offset. What it returns is not looked at."""

    def sync(self) -> object:
        """Makes every write that returned before durable."""


BackendLike: TypeAlias = "str | Backend | Mount | Readable"


class BackendOptions(TypedDict, total=False):
    """Options with which a URL is opened."""

    tls_cert: str | os.PathLike[str] | None
    """Certificate of this client, a PEM file."""
    tls_key: str | os.PathLike[str] | None
    """Its private key, a PEM file."""
    tls_ca: str | os.PathLike[str] | None
    """Authorities that may vouch for the server, a PEM file."""
    tls_pin: str | None
    """SHA-256 of the server's public key, in hexadecimal."""
    token: str | None
    """The secret by which the server knows this client."""
    insecure: bool | None
    """Allows plain TCP to a host that is not this one."""
    compression: str | None
    """Whether reads and writes travel packed over r3map's own protocol: `auto`, the default: where both sides can, the
    peer is on another host, and the network is slower than packing; `off`; `lz4` or `zstd`: however fast it is."""


class MountOptions(BackendOptions, total=False):
    """Options of a mount, and of the backend where it is named by a URL."""

    mode: str | None
    """`direct`: every access goes to the backend. `managed`: pages are kept here, pulled and pushed in the background.
    `auto`, the default: by the scheme; a backend of your own is direct."""
    device: str | None
    """`auto`, the default, `nbd`, `nbd:/dev/nbd3`, `userfaultfd`, `userfaultfd:user-mode` or `fuse`."""
    at: str | os.PathLike[str] | None
    """Where a fuse path appears: mounted over this file, which is created if it is missing."""
    read_only: bool | None
    """Refuse writes; views of a slice are read-only."""
    cache: str | None
    """URL of a local store that keeps pulled pages, memory by default; a file is kept for the next mount."""
    cache_trust: bool | None
    """Resume a cache without an identity to compare."""
    chunk_size: Size | None
    """Unit of transfer: a power of two, 4 KiB to 32 MiB; the backend's by default."""
    pull: str | None
    """`background`, the default: all of it. `demand`: what is asked for."""
    pull_range: Range | Iterable[Range] | Callable[[int], int] | None
    """What to pull first: `(offset, length[, priority])`, several of them, or a function of the offset that gives the
    priority; higher goes first."""
    trace: str | os.PathLike[str] | None
    """A file that `trace_save` wrote: pulled in its order, after `pull_range` and before all else."""
    push_interval: Time | None
    """Time between background pushes, 1 s by default; 0: only at `sync` and `close`."""
    offline: bool | None
    """Open from a `file:` cache though the remote is away."""
    read_ahead: Size | None
    """Of the kernel on block devices and fuse; `auto` by default."""
    max_in_flight: Size | None
    """Bytes under way at once, instead of the adaptive window."""
    deadline: Time | None
    """Bound of each blocking operation, 30 s by default; 0 waits for ever."""


class LeechOptions(MountOptions, total=False):
    """Options of a leecher: those of the mount it hands out, and these."""

    prepare: str | None
    """`path`, `file` or `slice`: attached before `finalize`, so that attaching is no part of the pause."""
    overwrite: bool | None
    """Take a local file though something else is in it, which is lost."""
    allow_legacy: bool | None
    """Take the region also from a seeder of the Go library r3map, by a `grpc://` URL: see docs/interop.md."""


class Credentials(TypedDict, total=False):
    """How a server or seeder proves who it is by TLS, and knows its clients. Given none, one that listens beyond this host
    makes a certificate and a token."""

    tls_cert: str | os.PathLike[str] | None
    """Its certificate, a PEM file."""
    tls_key: str | os.PathLike[str] | None
    """Its private key, a PEM file."""
    tls_ca: str | os.PathLike[str] | None
    """Authorities that may vouch for clients, a PEM file."""
    token: str | None
    """A secret by which a client is known, as `client`."""
    token_file: str | os.PathLike[str] | None
    """More of them: lines of `name:token`."""
    state: str | os.PathLike[str] | None
    """Directory of what was made; `r3map` in the user's state directory by default."""


class SeedOptions(Credentials, total=False):
    """Options of a seeder."""

    allow: Sequence[str] | None
    """For whom it is: names of certificates or tokens; all who are let in by default."""

    name: str | None
    """Under which it listens by itself; `region` by default."""
    suspend_deadline: Time | None
    """How long the app may take to stop when it is asked to; 30 s by default, 0 is for ever."""
    cache_trust: bool | None
    """Keep in this process who has the region, where it cannot be written down beside it."""
    allow_legacy: bool | None
    """Give it also to leechers of the Go library r3map, over gRPC at the same address: see docs/interop.md."""
    insecure: bool | None
    """Allows plain TCP on an address that is not loopback."""
    deadline: Time | None
    """Bound of each operation, and of a leecher's absence before the commit; 30 s by default, 0 is for ever."""
    on_suspend: Callable[[], Buffer | None] | None
    """Called on a thread when a leecher asks for the region: stop writing and return what goes along with it. What it
    raises refuses the leecher."""
    on_resume: Callable[[], object] | None
    """Called on that thread when it came to nothing: go on writing."""


class ServerOptions(Credentials, total=False):
    """Options of a server."""

    insecure: bool | None
    """Allows plain TCP on an address that is not loopback."""
    deadline: Time | None
    """Bound of each operation, and of a client's silence inside a message; 30 s by default, 0 is for ever."""
    max_connections: int | None
    """How many connections at once; more are refused `busy`. 1024 by default."""
    protocol: str | None
    """What it speaks: `r3map`, the default, `nbd` for clients of all kinds, or `grpc` as the Go library does."""
    compression: str | None
    """Whether what is read travels packed, as of a client: `auto`, the default, `off`, `lz4` or `zstd`. A client that wants
    more of it is given more, unless it is `off` here."""
