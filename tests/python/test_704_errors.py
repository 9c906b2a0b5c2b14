"""An error has a code, an errno that is never 0, a message and a word on trying again; there is a class for each."""

import copy
import errno
import io
import pickle

import pytest
import r3map
from r3map import errors
from r3map._r3map import codes

BASES = {
    r3map.InvalidArgument: ValueError,
    r3map.NotFound: FileNotFoundError,
    r3map.PermissionDenied: PermissionError,
    r3map.Unsupported: io.UnsupportedOperation,
    r3map.OutOfRange: IndexError,
    r3map.Timeout: TimeoutError,
    r3map.Disconnected: ConnectionError,
    r3map.NotAuthenticated: PermissionError,
    r3map.Closed: ValueError,
}


def test_every_code_has_a_class_an_errno_and_the_bases_that_fit():
    classes = {kind.code: kind for kind in r3map.Error.__subclasses__()}
    assert set(classes) == {name for name, _, _ in codes()} and len(classes) == 19
    for name, number, retryable in codes():
        error = classes[name]("what went wrong")
        assert number != 0 and (error.code, error.errno, error.retryable) == (name, number, retryable)
        assert str(error) == error.message == error.strerror == "what went wrong"
        assert getattr(r3map, classes[name].__name__) is classes[name] and classes[name].__doc__
    assert all(issubclass(kind, base) and issubclass(kind, OSError) for kind, base in BASES.items())


def test_errors_are_caught_as_what_they_are_in_python():
    with pytest.raises(FileNotFoundError) as caught:
        r3map.mount("file:///nowhere/at/all")
    assert caught.value.errno == errno.ENOENT and "/nowhere/at/all" in caught.value.message
    with pytest.raises(OSError):
        r3map.mount("memory:?size=1").read_at(2, 0)


def test_errors_are_pickled_and_copied():
    error = r3map.Busy("held by another", retryable=False)
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is r3map.Busy
        assert (same.message, same.retryable, same.errno) == ("held by another", False, errno.EBUSY)


def test_of_makes_the_class_of_a_code():
    assert isinstance(errors.of("fenced", "moved", False), r3map.Fenced)
