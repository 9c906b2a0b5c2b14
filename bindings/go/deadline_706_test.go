package r3map_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestACallEndsWithTimeoutAtTheDeadlineOfItsMountOrOfItsContext(t *testing.T) {
	s := newStore(4096)
	s.gate.Lock()
	m := mountStore(t, s, r3map.WithDeadline(20*time.Millisecond))
	_, err := m.ReadAt(make([]byte, 1), 0)
	fails(t, err, r3map.ErrTimeout, "deadline")
	check(t, errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded), "%v", err)
	s.gate.Unlock()
	ok(t, m.Discard(background))

	m = mountStore(t, s)
	s.gate.Lock()
	ctx, cancel := context.WithTimeout(background, 20*time.Millisecond)
	defer cancel()
	_, err = m.ReadAtContext(ctx, make([]byte, 1), 0)
	s.gate.Unlock()
	fails(t, err, r3map.ErrTimeout, "the context's deadline passed")
	check(t, errors.Is(err, os.ErrDeadlineExceeded) && errors.Is(err, context.DeadlineExceeded), "%v", err)
	check(t, !errors.Is(err, context.Canceled), "%v is context.Canceled", err)
	read(t, m, 1, 0)
	ok(t, m.Close())
}
