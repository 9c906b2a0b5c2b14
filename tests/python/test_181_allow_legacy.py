"""A region goes by the Go library's protocol only where both sides are told allow_legacy."""

import pytest
import r3map


def test_a_region_goes_by_the_legacy_protocol_where_both_sides_allow_it(region):
    with r3map.mount(region(100_000)[1]) as m:
        m.write_at(b"legacy", 70_000)
        with m.seed("127.0.0.1:0", allow_legacy=True, on_suspend=lambda: None) as s:
            url = s.url.replace("r3map://", "grpc://").rsplit("/", 1)[0] + "?size=100000&chunk=4KiB"
            with pytest.raises(r3map.Unsupported, match="allow_legacy"):
                r3map.leech(url, "memory:")
            with r3map.leech(url, "memory:", allow_legacy=True) as l, l.finalize() as moved:
                assert moved.read_at(6, 70_000) == b"legacy"
                moved.wait_local(timeout=30)
            s.wait_drained(30)


def test_a_mount_and_a_native_source_have_no_use_for_it():
    with pytest.raises(r3map.InvalidArgument, match="allow_legacy"):
        r3map.mount("memory:?size=4096", allow_legacy=True)
    with pytest.raises(r3map.InvalidArgument, match="allow_legacy"):
        r3map.leech("r3map://127.0.0.1:1/region", "memory:", allow_legacy=True)
