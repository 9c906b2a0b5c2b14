"""The stubs say what the module has, the Python parts are typed, and everything public is documented."""

import inspect
import subprocess
import sys

import r3map
import r3map.aio
import r3map.errors
import r3map.fs
import r3map.options
from r3map import _r3map

MODULES = [r3map, r3map.aio, r3map.errors, r3map.fs, r3map.options, _r3map]


def run(*arguments):
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_are_those_of_the_module():
    run("mypy.stubtest", "r3map._r3map")


def test_the_python_parts_and_an_example_of_use_are_typed(tmp_path):
    (tmp_path / "use.py").write_text(
        "import r3map\n"
        "with r3map.mount('memory:?size=1', mode='direct', pull_range=(0, 1)) as m:\n"
        "    found: bytes = m.read_at(1, 0)\n"
        "    m.write_at(bytearray(1), offset=0)\n"
    )
    config = "bindings/python/pyproject.toml"
    run("mypy", "--config-file", config, "-p", "r3map")
    run("mypy", "--config-file", config, str(tmp_path / "use.py"))


def test_a_wrong_use_is_found_by_a_type_checker(tmp_path):
    (tmp_path / "use.py").write_text("import r3map\nr3map.mount('memory:', chunksize=1)\n")
    done = subprocess.run([sys.executable, "-m", "mypy", tmp_path / "use.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "chunksize" in done.stdout


def test_everything_public_is_documented():
    missing = []
    for module in MODULES:
        assert module.__doc__
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "").split(".")[0] != "r3map":
                continue
            if inspect.isclass(thing):
                missing += [f"{name}.{part}" for part in vars(thing) if undocumented(thing, part)]
            if callable(thing) and not thing.__doc__:
                missing.append(name)
    assert not missing


def undocumented(kind, name):
    if name.startswith("_") or name in vars(RAW):
        return False
    part = inspect.getattr_static(kind, name)
    return (callable(part) or inspect.isdatadescriptor(part)) and not part.__doc__


class RAW:
    """Options of a TypedDict and names that io documents."""
