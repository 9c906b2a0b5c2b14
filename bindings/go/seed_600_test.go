package r3map_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestAMountThatIsSeededStaysInUseAndIsClosedAfterItsSeeder(t *testing.T) {
	_, url := newFile(t, 300001)
	m := open(t, url)
	s := seed(t, m, r3map.WithName("state"), r3map.WithDeadline(20*time.Second), r3map.WithSuspendDeadline(time.Second))
	check(t, strings.HasPrefix(s.URL(), "r3map://127.0.0.1:") && strings.HasSuffix(s.URL(), "/state"), "it is at %s", s.URL())
	check(t, expect(t, s, r3map.SeedWaiting).Sequence == 1, "another number than 1")

	_, err := m.Seed(background, "127.0.0.1:0")
	fails(t, err, r3map.ErrBusy, "being seeded")
	fails(t, m.Close(), r3map.ErrBusy, "close its seeder first")
	fails(t, m.Discard(background), r3map.ErrBusy, "close its seeder first")
	write(t, m, []byte("used"), 4094)
	same(t, read(t, m, 4, 4094), []byte("used"))
	stats, err := s.Stats()
	ok(t, err)
	check(t, stats["size"] == 300001, "size %d", stats["size"])

	// To who does not leech it is no export.
	_, err = r3map.Open(background, s.URL())
	fails(t, err, r3map.ErrUnsupported, "being seeded")
	short, cancel := context.WithTimeout(background, time.Millisecond)
	defer cancel()
	_, err = s.Next(short)
	fails(t, err, r3map.ErrTimeout, "")
	fails(t, s.WaitDrained(short), r3map.ErrTimeout, "")

	ok(t, s.Close())
	s = seed(t, m)
	ok(t, s.Close())
	ok(t, m.Close())
	_, err = m.Seed(background, "127.0.0.1:0", r3map.WithName("\x00"))
	fails(t, err, r3map.ErrClosed, "the mount is closed")
}

func TestAnOptionThatASeederCannotTakeIsReported(t *testing.T) {
	_, url := newFile(t, 5000)
	m := open(t, url)
	for text, option := range map[string]r3map.SeedOption{
		"name: it holds a NUL byte":          r3map.WithName("\x00"),
		"name":                               r3map.WithName(""),
		"suspend_deadline: -1ns is negative": r3map.WithSuspendDeadline(-1),
		"deadline: -1ns is negative":         r3map.WithDeadline(-1),
		"an option is nil":                   nil,
	} {
		_, err := m.Seed(background, "127.0.0.1:0", option)
		fails(t, err, r3map.ErrInvalidArgument, text)
	}
	_, err := m.Seed(background, "127.0.0.1:0\x00")
	fails(t, err, r3map.ErrInvalidArgument, "NUL")
}
