"""The exceptions: one class for each code of the library, all of them `Error`, which is an `OSError`.

A backend written in Python raises them too, and whoever reads through it gets the same code.
"""

import io

from ._r3map import codes as _codes

_CODES = {name: (errno, retryable) for name, errno, retryable in _codes()}


class Error(OSError):
    """What went wrong: `code`, `message` (what was tried on what, what went wrong, what to do), `errno`, which is fixed
    by the code, and `retryable`: whether the same call may succeed later without any change by the caller."""

    code: str = "io"
    message: str
    retryable: bool

    def __init__(self, message: str = "", *, retryable: bool | None = None) -> None:
        errno, by_code = _CODES[self.code]
        super().__init__(errno, message)
        self.message = message
        self.retryable = by_code if retryable is None else retryable

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.message, self.retryable)


class InvalidArgument(Error, ValueError):
    """A value that could never be right: an unknown option, a malformed URL."""

    code = "invalid_argument"


class NotFound(Error, FileNotFoundError):
    """The file, export, key or host is confirmed not to be there."""

    code = "not_found"


class PermissionDenied(Error, PermissionError):
    """This process or client may not do it."""

    code = "permission_denied"


class Unsupported(Error, io.UnsupportedOperation):
    """Not offered by this device, backend, kernel or build."""

    code = "unsupported"


class NoDevice(Error):
    """No device of the kind asked for can be attached here."""

    code = "no_device"


class Busy(Error):
    """Somebody else holds it."""

    code = "busy"


class ReadOnly(Error):
    """A write to something opened or exported read-only."""

    code = "read_only"


class OutOfRange(Error, IndexError):
    """Offset and length reach outside the region."""

    code = "out_of_range"


class Timeout(Error, TimeoutError):
    """The deadline passed first."""

    code = "timeout"


class Cancelled(Error):
    """The caller's cancel was triggered."""

    code = "cancelled"


class Disconnected(Error, ConnectionError):
    """The peer is away and did not come back in time."""

    code = "disconnected"


class Io(Error):
    """The storage under a backend failed."""

    code = "io"


class Corrupt(Error):
    """Bytes, a record or a frame failed their check."""

    code = "corrupt"


class Fenced(Error):
    """The region is owned by another side now."""

    code = "fenced"


class StaleEpoch(Error):
    """An answer to something that is over: an old sequence number, session or epoch."""

    code = "stale_epoch"


class Suspended(Error):
    """The region is suspended for a hand-over; try again after it."""

    code = "suspended"


class NotAuthenticated(Error, PermissionError):
    """The peer asks for credentials that were missing or wrong."""

    code = "not_authenticated"


class Closed(Error, ValueError):
    """It was closed, or belongs to the parent of this forked process."""

    code = "closed"


class Internal(Error):
    """A defect of the library itself."""

    code = "internal"


_CLASSES = {kind.code: kind for kind in Error.__subclasses__()}


def of(code: str, message: str, retryable: bool) -> Error:
    """The exception of a code."""
    return _CLASSES[code](message, retryable=retryable)


def _again(kind: type[Error], message: str, retryable: bool) -> Error:
    return kind(message, retryable=retryable)
