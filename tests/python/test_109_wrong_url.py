"""A wrong URL is refused with what is wrong with it."""

import pytest
import r3map

WRONG = [
    ("fil:///x", 'did you mean "file"'),
    ("/just/a/path", "URL"),
    ("memory:?sice=1", 'did you mean "size"'),
    ("memory:?size=1XB", "size"),
    ("r3map://:1/x", ""),
    ("", ""),
]


@pytest.mark.parametrize(("url", "text"), WRONG)
@pytest.mark.parametrize("opener", [r3map.open_backend, r3map.mount])
def test_a_wrong_url_says_what_is_wrong(opener, url, text):
    with pytest.raises(r3map.InvalidArgument) as caught:
        opener(url)
    assert text in str(caught.value)


def test_an_export_that_is_not_there_is_not_found(server):
    with pytest.raises(r3map.NotFound, match="absent"):
        r3map.open_backend(f"{server.url}/absent")
