"""An app that refuses goes on writing and the leecher hears why; the next time it moves."""

import threading

import pytest
import r3map


def test_an_app_whose_callback_raises_keeps_its_region(region):
    resumed = threading.Event()
    refusing = True

    def stop():
        if refusing:
            raise RuntimeError("in the middle of something")

    with r3map.mount(region(100000)[1]) as m:
        with m.seed("127.0.0.1:0", on_suspend=stop, on_resume=resumed.set) as s, r3map.leech(s.url, "memory:") as l:
            with pytest.raises(r3map.Busy, match="in the middle of something"):
                l.finalize()
            assert resumed.wait(30)
            m.write_at(b"still mine", 0)
            refusing = False
            with l.finalize() as moved:
                assert moved.read_at(10, 0) == b"still mine"
                moved.wait_local(timeout=30)
            s.wait_drained(30)


def test_an_answer_to_an_older_event_is_a_stale_epoch():
    with r3map.mount("memory:?size=8192") as m, m.seed("127.0.0.1:0") as s:
        for answer in (lambda: s.suspended(1), lambda: s.refuse(s.next(0, 10), "no")):
            with pytest.raises(r3map.StaleEpoch):
                answer()


def test_a_refusal_by_hand_says_its_reason():
    with r3map.mount("memory:?size=8192") as m, m.seed("127.0.0.1:0") as s, r3map.leech(s.url, "memory:") as l:
        heard = []

        def finalize():
            try:
                l.finalize()
            except r3map.Error as error:
                heard.append((error.code, error.message))

        thread = threading.Thread(target=finalize)
        thread.start()
        while True:
            event = s.next(timeout=30)
            if event.state == "suspending":
                s.refuse(event, "come back later")
                break
        thread.join(30)
        assert heard[0][0] == "busy" and "come back later" in heard[0][1]
        m.write_at(b"x", 0)
