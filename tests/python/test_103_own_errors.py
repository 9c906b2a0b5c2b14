"""What a method of an own backend raises arrives with its code and message; a retryable one is tried again."""

import errno

import pytest
import r3map
from conftest import Own

CASES = [
    (r3map.Corrupt("a bit flipped"), r3map.Corrupt, "a bit flipped"),
    (PermissionError(errno.EACCES, "no"), r3map.PermissionDenied, "denied"),
    (OSError(errno.ENOSPC, "full"), r3map.Io, "No space left"),
    (TimeoutError("too late"), r3map.Timeout, "too late"),
    (KeyError("row 7"), r3map.Io, "row 7"),
]


@pytest.mark.parametrize(("raised", "kind", "text"), CASES)
def test_what_an_own_backend_raises_reaches_the_caller(raised, kind, text):
    own = Own(4096)
    own.failures = [raised] if kind is not r3map.Timeout else [raised] * 10000
    with r3map.mount(own, deadline=0.3) as m:
        with pytest.raises(kind, match=text) as caught:
            m.read_at(1, 0)
        own.failures = []
    assert caught.value.code == kind.code


def test_an_exception_of_another_kind_is_the_cause():
    own = Own(4096)
    own.failures = [ZeroDivisionError("of zero")]
    with r3map.mount(own) as m, pytest.raises(r3map.Io) as caught:
        m.read_at(1, 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.__cause__.__traceback__ is not None


def test_a_retryable_error_is_tried_again_until_it_works():
    own = Own(4096)
    own.failures = [r3map.Busy("not now"), r3map.Suspended("nor now")]
    with r3map.mount(own) as m:
        assert m.read_at(4, 0) == own.data[:4]
    assert own.calls[:3] == ["read"] * 3


def test_an_answer_of_another_length_is_an_error_and_never_zeros():
    class Short(Own):
        def read_at(self, length, offset):
            return b"abc"

    with r3map.mount(Short(4096)) as m, pytest.raises(r3map.Io, match="returned 3 bytes"):
        m.read_at(4, 0)
