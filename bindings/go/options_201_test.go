package r3map_test

import (
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestAValueThatAnOptionCannotTakeIsReportedByOpenWithItsName(t *testing.T) {
	refused := func(text string, options ...r3map.MountOption) {
		t.Helper()
		m, err := r3map.Open(background, "memory:?size=65536", options...)
		fails(t, err, r3map.ErrInvalidArgument, text)
		check(t, m == nil, "a mount beside an error")
	}
	refused(`chunksize: unknown option; did you mean "chunk_size"?`, r3map.WithOption("chunksize", "1"))
	refused("chunk_size: 5000 is not a power of two", r3map.WithOption("chunk_size", "5000"))
	refused(`device: unknown value "fuze"; did you mean "fuse"?`, r3map.WithDevice("fuze"))
	refused("device: nbd: names no device", r3map.WithDevice("nbd:"))
	refused(`deadline: "soon" is not a time`, r3map.WithOption("deadline", "soon"))
	refused("deadline: -1s is negative", r3map.WithDeadline(-time.Second))
	refused("push_interval: -1ns is negative", r3map.WithPushInterval(-1))
	refused("mode: 99 is no mode", r3map.WithMode(99), r3map.WithPull(99))
	refused("pull: 99 is no way to pull", r3map.WithPull(99))
	refused("chunk_size: -1 is negative", r3map.WithChunkSize(-1))
	refused("chunk_size: 9223372036854775807 is more than 32 MiB", r3map.WithChunkSize(1<<63-1))
	refused("max_in_flight: 0 bytes", r3map.WithMaxInFlight(0))
	refused("read_ahead: -5 is negative", r3map.WithReadAhead(-5))
	refused("pull_range: 5 bytes at -1", r3map.WithPullRange(-1, 5, 0))
	refused("pull_priority: the function is nil", r3map.WithPullPriority(nil))
	refused("cache: it holds a NUL byte", r3map.WithCache("file:///\x00"))
	refused("token: it holds a NUL byte", r3map.WithToken("\x00secret"))
	refused("value: it holds a NUL byte", r3map.WithOption("mode", "\x00"))
	refused("an option is nil", nil)

	// All at once, each with a value it takes.
	m := open(t, "memory:?size=65536", r3map.WithMode(r3map.ModeDirect), r3map.WithDevice("auto"), r3map.WithChunkSize(65536),
		r3map.WithPull(r3map.PullDemand), r3map.WithPullRange(0, 4096, 1), r3map.WithPushInterval(250*time.Millisecond),
		r3map.WithReadAhead(0), r3map.WithMaxInFlight(1<<20), r3map.WithDeadline(5*time.Second), r3map.WithInsecure(),
		r3map.WithOption("mode", "direct"))
	ok(t, m.Close())
}
