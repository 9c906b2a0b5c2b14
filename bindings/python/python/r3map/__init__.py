"""r3map, "remote mmap": bytes that live elsewhere as a memory region of this process.

    with r3map.mount("r3map://127.0.0.1:7070/model") as m:
        m.read_at(4096, 0); m.write_at(b"hello", 512); m.sync()
        weights = numpy.frombuffer(m.slice(), numpy.float32)

A backend is where bytes live: a URL, a connected socket, an object of your own. A mount makes it a region of this host.
A server offers backends to others. A seeder is the side that a region in use moves away from, a leecher the side it moves
to. Options are keyword arguments: `MountOptions`, `BackendOptions`, `ServerOptions`, `SeedOptions`, `LeechOptions`.
Errors are `Error` and its subclasses. `r3map.aio` has the same for asyncio, `r3map.fs` a file system for fsspec.
"""

import atexit as _atexit

from ._r3map import (
    Backend,
    Cancel,
    Event,
    Group,
    Leecher,
    Mount,
    SeedEvent,
    Seeder,
    Server,
    __version__,
    connect,
    leech,
    mount,
    open_backend,
    serve,
)
from ._r3map import end as _end
from .errors import (
    Busy,
    Cancelled,
    Closed,
    Corrupt,
    Disconnected,
    Error,
    Fenced,
    Internal,
    InvalidArgument,
    Io,
    NoDevice,
    NotAuthenticated,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ReadOnly,
    StaleEpoch,
    Suspended,
    Timeout,
    Unsupported,
)
from .log import log_off, log_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import BackendOptions, LeechOptions, MountOptions, Readable, SeedOptions, ServerOptions, Writable

__all__ = [
    "Backend",
    "BackendOptions",
    "Busy",
    "Cancel",
    "Cancelled",
    "Closed",
    "Corrupt",
    "Disconnected",
    "Error",
    "Event",
    "Fenced",
    "Group",
    "Internal",
    "InvalidArgument",
    "Io",
    "LeechOptions",
    "Leecher",
    "Mount",
    "MountOptions",
    "NoDevice",
    "NotAuthenticated",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ReadOnly",
    "Readable",
    "SeedEvent",
    "SeedOptions",
    "Seeder",
    "Server",
    "ServerOptions",
    "StaleEpoch",
    "Suspended",
    "Timeout",
    "Unsupported",
    "Writable",
    "__version__",
    "connect",
    "leech",
    "log_off",
    "log_to",
    "mount",
    "open_backend",
    "serve",
]

_atexit.register(_end)


def __getattr__(name: str) -> object:
    # Only type checkers and readers want these, and `typing` takes longer to import than all the rest.
    if name in ("BackendOptions", "LeechOptions", "MountOptions", "Readable", "SeedOptions", "ServerOptions", "Writable"):
        from . import options

        return getattr(options, name)
    raise AttributeError(f"module 'r3map' has no attribute {name!r}")
