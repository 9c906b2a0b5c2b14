"""The log is off until told, then goes to a file, or to a logger of `logging` by parts of the library."""

import logging
import os
import time

import pytest
import r3map
from conftest import Own


def lose_a_write():
    """A write that fails is an error in the log."""
    own = Own(4096)
    own.failures = [OSError(5, "broken")]
    m = r3map.mount(own)
    with pytest.raises(r3map.Io):
        m.write_at(b"x", 0)
    m.discard()


@pytest.fixture(autouse=True)
def off():
    yield
    r3map.log_off()


def test_the_log_goes_to_a_file_until_it_is_ended(tmp_path):
    with open(tmp_path / "log", "w") as file:
        r3map.log_to(file, "debug")
        lose_a_write()
        r3map.log_off()
        length = os.path.getsize(tmp_path / "log")
        lose_a_write()
    text = (tmp_path / "log").read_text()
    assert len(text) == length and " r3map::" in text and "Input/output error" in text


def test_the_log_goes_to_logging_by_parts_of_the_library(caplog):
    logger = logging.getLogger("r3map")
    with caplog.at_level(logging.DEBUG, "r3map"):
        r3map.log_to(logger)
        lose_a_write()
        until = time.monotonic() + 20
        while not any("Input/output" in record.message for record in caplog.records) and time.monotonic() < until:
            time.sleep(0.01)
    found = [record for record in caplog.records if "Input/output" in record.message]
    assert found and found[0].name.startswith("r3map.") and found[0].levelno >= logging.WARNING


def test_a_level_or_descriptor_that_is_none_is_refused():
    with pytest.raises(r3map.InvalidArgument, match='did you mean "warn"'):
        r3map.log_to(2, "warning")
    with pytest.raises(r3map.InvalidArgument, match="not open"):
        r3map.log_to(987654)
