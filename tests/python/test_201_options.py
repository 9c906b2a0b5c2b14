"""Options are keyword arguments of Python's own types; a value or name that cannot be is refused by its name."""

import datetime

import pytest
import r3map
from conftest import Own

TAKEN = [
    {"mode": "managed", "chunk_size": 65536, "pull": "demand"},
    {"mode": "managed", "chunk_size": "64KiB", "push_interval": datetime.timedelta(milliseconds=250)},
    {"mode": "managed", "pull_range": (0, 4096)},
    {"mode": "managed", "pull_range": [(0, 4096, 3), (8192, "4096" and 4096)]},
    {"deadline": 1.5, "read_only": True, "read_ahead": "auto", "max_in_flight": None},
    {"deadline": "500ms", "read_only": False, "device": "fuse"},
]
REFUSED = [
    ({"chunksize": 1}, r3map.InvalidArgument, 'did you mean "chunk_size"'),
    ({"mode": "mangaged"}, r3map.InvalidArgument, "mode"),
    ({"chunk_size": 5000}, r3map.InvalidArgument, "chunk_size"),
    ({"chunk_size": -1}, r3map.InvalidArgument, "chunk_size"),
    ({"deadline": -1.0}, r3map.InvalidArgument, "deadline"),
    ({"deadline": []}, TypeError, "deadline"),
    ({"read_only": "perhaps"}, r3map.InvalidArgument, "read_only"),
    ({"pull_range": 7}, TypeError, ""),
    ({"pull_range": [(1,)]}, TypeError, "pull_range"),
    ({"token": 7}, TypeError, ""),
    ({"max_in_flight": 0}, r3map.InvalidArgument, "max_in_flight"),
]


@pytest.mark.parametrize("options", TAKEN)
def test_options_are_taken_in_types_of_python(options):
    with r3map.mount("memory:?size=1MiB", **options) as m:
        assert m.read_only == bool(options.get("read_only"))


@pytest.mark.parametrize(("options", "kind", "text"), REFUSED)
def test_what_an_option_cannot_take_is_refused_by_its_name(options, kind, text):
    with pytest.raises(kind) as caught:
        r3map.mount("memory:?size=1MiB", **options)
    assert text in str(caught.value)


def test_a_function_of_the_offset_says_what_is_pulled_first():
    size, seen = 1 << 20, []

    class Watched(Own):
        def read_at(self, length, offset):
            seen.append(offset)
            return super().read_at(length, offset)

    own = Watched(size, concurrency=1)
    with r3map.mount(
        own, mode="managed", max_in_flight=65536, pull_range=lambda offset: 1 if offset >= size // 2 else 0
    ) as m:
        m.wait_local(timeout=20)
    assert min(seen[:4]) >= size // 2
    assert sorted(set(seen)) == list(range(0, size, 65536))


def test_what_that_function_raises_ends_the_opening():
    with pytest.raises(ZeroDivisionError):
        r3map.mount("memory:?size=1MiB", mode="managed", pull_range=lambda offset: 1 // 0)
