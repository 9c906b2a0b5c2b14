"""Where the library's log goes: a file, or Python's `logging`. It says nothing until told."""

from __future__ import annotations

import os

from . import _r3map

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import IO

_NAMES = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "error"}
_LEVELS = {"ERROR": 40, "WARN": 30, "INFO": 20, "DEBUG": 10, "TRACE": 5}


def log_to(target: int | IO[str] | IO[bytes] | logging.Logger, level: str | None = None) -> None:
    """Writes the log of the whole process to a file or descriptor, or to a logger of `logging`, from now on.

    `level` is one of `error`, `warn`, `info`, `debug`, `trace`; by default that of the logger, and `info` for a file. The
    library never waits for the reader: what is written faster than it is read is dropped, and counted by a later line.
    A part of the library logs to a child of the logger: `r3map.mount.pusher`, where the logger is `r3map`.
    """
    if isinstance(target, int):
        _r3map.log_to(target, level or "info")
    elif hasattr(target, "getEffectiveLevel"):
        _bridge(target, level)  # type: ignore[arg-type]
    else:
        _r3map.log_to(target.fileno(), level or "info")


def log_off() -> None:
    """Ends the log."""
    _r3map.log_off()


def _bridge(logger: logging.Logger, level: str | None) -> None:
    if level is None:
        at = logger.getEffectiveLevel()
        level = "trace" if at < 10 else _NAMES[min(at // 10 * 10, 50)]
    import threading

    reader, writer = os.pipe()
    try:
        _r3map.log_to(writer, level)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    threading.Thread(target=_read, args=(reader, logger), name="r3map-logging", daemon=True).start()


def _read(reader: int, logger: logging.Logger) -> None:
    """Hands lines on until the library lets go of the other end."""
    with open(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            head, _, message = line.rstrip("\n").partition(": ")
            level, _, part = head.partition(" ")
            part = part.removeprefix("r3map").lstrip(":").replace("::", ".")
            child = logger.getChild(part) if part else logger
            child.log(_LEVELS.get(level, 20), "%s", message)
