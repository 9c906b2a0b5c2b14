package r3map_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestAContextEndsACallThatWaitsForABackendAndEveryLaterOne(t *testing.T) {
	s := newStore(4096)
	s.gate.Lock()
	m := mountStore(t, s)
	why := errors.New("the user went away")
	ctx, cancel := context.WithCancelCause(background)
	go func() {
		for inside := 0; inside == 0; time.Sleep(time.Millisecond) {
			s.mutex.Lock()
			inside = s.inside
			s.mutex.Unlock()
		}
		cancel(why)
	}()
	_, err := m.ReadAtContext(ctx, make([]byte, 1), 0)
	s.gate.Unlock()
	fails(t, err, r3map.ErrCancelled, "cancelled")
	check(t, errors.Is(err, context.Canceled) && errors.Is(err, why), "%v lacks its cause", err)
	fails(t, m.Sync(ctx), r3map.ErrCancelled, "before it began")
	_, err = r3map.Open(ctx, "memory:?size=1")
	fails(t, err, r3map.ErrCancelled, "before it began")
	_, err = m.Slice(ctx)
	fails(t, err, r3map.ErrCancelled, "before it began")
	fails(t, m.CloseContext(ctx), r3map.ErrCancelled, "before it began")
	read(t, m, 1, 0)
	ok(t, m.Close())
}

func TestACallThatReturnsWhileItsContextEndsIsWhole(t *testing.T) {
	m := open(t, "memory:?size=4096")
	expected := fill(make([]byte, 4096), 1)
	write(t, m, expected, 0)
	for round := 0; round < 500; round++ {
		ctx, cancel := context.WithCancel(background)
		go cancel()
		found := make([]byte, 4096)
		n, err := m.ReadAtContext(ctx, found, 0)
		if err == nil {
			same(t, found[:n], expected)
		} else {
			fails(t, err, r3map.ErrCancelled, "")
		}
	}
}
