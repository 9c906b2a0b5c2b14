"""Takes the region that is seeded at URL over into LOCAL, writes to it, and gives it away while it goes on writing. What it
writes is in the test that starts it.

    next.py STRIDE URL LOCAL
"""

import sys

import r3map

PATIENCE = 60


def main():
    stride, url, local = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    with r3map.leech(url, local) as leecher:
        mount = leecher.finalize_when("90%", PATIENCE)
        mount.wait_local(timeout=PATIENCE)
    step = 0

    def write_step():
        nonlocal step
        record = f"{'Python':6} {step:030}".encode()
        mount.write_at(record, step * stride % (mount.size - len(record)))
        step += 1

    with mount:
        while step < 500:
            write_step()
        with mount.seed("127.0.0.1:0") as seeder:
            print(seeder.url, flush=True)
            sequence, state = 0, "waiting"
            while state != "drained":
                # While the region is ours it is written, each time that nothing happened for a millisecond.
                is_ours = state in ("waiting", "tracking")
                try:
                    event = seeder.next(sequence, 0.001 if is_ours else PATIENCE)
                except r3map.Timeout:
                    if not is_ours:
                        raise
                    write_step()
                    continue
                sequence, state = event.sequence, event.state
                if state == "suspending":
                    seeder.suspended(event, mount.payload + b"Python %d\n" % step)


if __name__ == "__main__":
    main()
