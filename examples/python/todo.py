"""A to-do list that moves to another process while it is being edited.

    todo.py                      starts the list here, edits it, and moves it to a second process, which goes on
    todo.py follow URL           is the second: takes over the list of the seeder at URL and edits it to its end

The list is a region: it is edited in memory, and what is under way in the editor (who edits, and how far) goes along as
the payload. Not one edit is lost and none is made twice.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time

import r3map

EDITS = 400
SIZE = 1 << 20


class TodoList:
    """A list in a region: its length in bytes, then its entries as JSON."""

    def __init__(self, mount: r3map.Mount) -> None:
        self._mount = mount

    def entries(self) -> list[dict[str, object]]:
        (length,) = struct.unpack("<Q", self._mount.read_at(8, 0))
        return json.loads(self._mount.read_at(length, 8)) if length else []

    def edit(self, number: int, editor: str) -> None:
        """The edit of that number: every fifth ticks an entry off, the others add one."""
        entries = self.entries()
        if number % 5 == 4:
            entries[number // 5]["done"] = True
        else:
            entries.append({"text": f"task {number}", "by": editor, "done": False})
        text = json.dumps(entries).encode()
        self._mount.write_at(text, 8)
        self._mount.write_at(struct.pack("<Q", len(text)), 0)


class Editor:
    """Edits a list on a thread until it is told to stop, which it does between two edits."""

    def __init__(self, mount: r3map.Mount, name: str, done: int) -> None:
        self.done = done
        self._list, self._name = TodoList(mount), name
        self._may_go_on = threading.Event()
        self._stands = threading.Condition()
        self._working = False
        self._thread = threading.Thread(target=self._edit, daemon=True)
        self.go_on()
        self._thread.start()

    def go_on(self) -> None:
        self._may_go_on.set()

    def stop(self) -> bytes:
        """Called by the seeder: from its return on nothing is written here. What it returns goes along."""
        self._may_go_on.clear()
        with self._stands:
            self._stands.wait_for(lambda: not self._working)
        return json.dumps({"done": self.done}).encode()

    def wait(self) -> None:
        self._thread.join()

    def _edit(self) -> None:
        while self.done < EDITS:
            self._may_go_on.wait()
            with self._stands:
                if not self._may_go_on.is_set():
                    continue
                self._working = True
            self._list.edit(self.done, self._name)
            self.done += 1
            with self._stands:
                self._working = False
                self._stands.notify_all()
            time.sleep(0.002)


def lead() -> None:
    """Starts the list, and gives it away while it is being edited."""
    with r3map.mount(f"memory:?size={SIZE}") as mount:
        editor = Editor(mount, "the first process", 0)
        with mount.seed("127.0.0.1:0", on_suspend=editor.stop, on_resume=editor.go_on) as seeder:
            with subprocess.Popen([sys.executable, __file__, "follow", seeder.url]) as second:
                seeder.wait_drained(60)
                print(f"the first process made {editor.done} edits, then gave the list away", flush=True)
            if second.returncode != 0:
                sys.exit("the second process failed")


def follow(url: str) -> None:
    """Takes the list over once most of it is here, and edits it to its end."""
    with r3map.leech(url, "memory:") as leecher:
        leecher.wait_local(0.9, timeout=60)
        time.sleep(0.2)  # so that there is something to see: edits go on at the other side meanwhile
        begun = time.monotonic()
        mount = leecher.finalize()
        pause = time.monotonic() - begun
        with mount:
            done = json.loads(mount.payload)["done"]
            print(f"the second process took it over after {done} edits, in {pause * 1000:.1f} ms", flush=True)
            Editor(mount, "the second process", done).wait()
            mount.wait_local(timeout=60)
            entries = TodoList(mount).entries()
            check(entries)
    by = [sum(entry["by"] == name for entry in entries) for name in ("the first process", "the second process")]
    print(f"the list has {len(entries)} entries, {by[0]} by the first process and {by[1]} by the second", flush=True)


def check(entries: list[dict[str, object]]) -> None:
    """Every edit was made once, in order, whoever made it."""
    added = [number for number in range(EDITS) if number % 5 != 4]
    assert [entry["text"] for entry in entries] == [f"task {number}" for number in added]
    assert [entry["done"] for entry in entries] == [index < EDITS // 5 for index in range(len(entries))]


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "follow":
        follow(sys.argv[2])
    elif len(sys.argv) == 1:
        lead()
    else:
        sys.exit("usage: todo.py")
