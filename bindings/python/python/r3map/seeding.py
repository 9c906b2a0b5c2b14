"""Callbacks instead of events: what `on_suspend` and `on_resume` of `seed` do."""

from __future__ import annotations

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from ._r3map import Seeder


def follow(
    seeder: Seeder,
    on_suspend: Callable[[], Buffer | None] | None,
    on_resume: Callable[[], object] | None,
) -> None:
    """Answers the events of a seeder on a thread, until it is closed."""
    import threading

    arguments = (seeder, on_suspend, on_resume)
    threading.Thread(target=_follow, args=arguments, name="r3map-seeder", daemon=True).start()


def _follow(
    seeder: Seeder,
    on_suspend: Callable[[], Buffer | None] | None,
    on_resume: Callable[[], object] | None,
) -> None:
    after = 0
    while True:
        try:
            event = seeder.next(after)
        except errors.Closed:
            return
        after = event.sequence
        try:
            if event.state == "suspending":
                _suspend(seeder, after, on_suspend)
            elif event.state == "resumed" and on_resume is not None:
                on_resume()
        except (errors.StaleEpoch, errors.Closed):
            # The leecher went meanwhile: the next event says so.
            continue
        except Exception:
            import logging

            logging.getLogger("r3map").exception("a callback of a seeder failed")


def _suspend(seeder: Seeder, event: int, on_suspend: Callable[[], Buffer | None] | None) -> None:
    payload: Buffer | None = None
    if on_suspend is not None:
        try:
            payload = on_suspend()
        except Exception as raised:
            seeder.refuse(event, f"{type(raised).__name__}: {raised}")
            raise
    seeder.suspended(event, b"" if payload is None else payload)
