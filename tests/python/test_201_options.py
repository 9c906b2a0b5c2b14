"""Options are keyword arguments of Python's own types; a value or name that cannot be is refused by its name."""

import datetime

import pytest
import r3map

TAKEN = [
    {"mode": "managed", "chunk_size": 65536, "pull": "demand"},
    {"mode": "managed", "chunk_size": "64KiB", "push_interval": datetime.timedelta(milliseconds=250)},
    {"mode": "managed", "pull_range": (0, 4096)},
    {"mode": "managed", "pull_range": [(0, 4096, 3), (8192, 4096)]},
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
