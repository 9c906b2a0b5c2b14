"""The to-do list of the examples moves to another process while it is being edited, and every edit is there once."""

import pathlib
import subprocess
import sys

TODO = pathlib.Path(__file__).parents[2] / "examples" / "python" / "todo.py"


def test_a_list_moves_while_it_is_edited():
    done = subprocess.run([sys.executable, TODO], capture_output=True, text=True, timeout=250)
    said = done.stdout
    assert done.returncode == 0, done.stderr
    given = int(said.split("the first process made ")[1].split()[0])
    taken = int(said.split("took it over after ")[1].split()[0])
    assert 0 < given == taken < 400 and "the list has 320 entries" in said
