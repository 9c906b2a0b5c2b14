"""A wheel is built and installed by pip alone, and works in a fresh environment, for every Python from 3.11."""

import os
import pathlib
import subprocess
import sys
import venv
import zipfile

ROOT = pathlib.Path(__file__).parents[2]
USE = """
import r3map, fsspec, importlib.metadata, importlib.resources
assert importlib.metadata.version("r3map") == r3map.__version__
assert importlib.resources.files("r3map").joinpath("py.typed").is_file()
with r3map.serve("127.0.0.1:0") as server:
    url = server.export("m", "memory:?size=8192")
    with r3map.mount(url) as m:
        m.write_at(b"installed", 0)
    with fsspec.open(url) as file:
        print(file.read(9).decode())
"""


def test_a_wheel_is_built_installed_and_used_in_a_fresh_environment(tmp_path):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean.setdefault("CARGO_TARGET_DIR", os.fspath(ROOT / "target"))

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT / "bindings" / "python")
    (wheel,) = tmp_path.glob("*.whl")
    assert "-cp311-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        assert wheel.stat().st_size < sum(part.file_size for part in archive.infolist()) < 12 << 20
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[fsspec]")
    assert run(python, "-c", USE) == "installed\n"
