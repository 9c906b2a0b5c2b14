"""The version is that of the package."""

import pathlib
import re

import r3map


def test_the_version_is_that_of_the_package():
    manifest = pathlib.Path(__file__).parents[2] / "Cargo.toml"
    assert r3map.__version__ == re.search(r'^version = "(.*)"', manifest.read_text(), re.MULTILINE)[1]
