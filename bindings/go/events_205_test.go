package r3map_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestWaitingForAnEventEndsWithTheContextOrTheMountWhereThereIsNone(t *testing.T) {
	m := open(t, "memory:?size=8192")
	short, cancel := context.WithTimeout(background, 20*time.Millisecond)
	defer cancel()
	event, err := m.Next(short)
	fails(t, err, r3map.ErrTimeout, "")
	check(t, errors.Is(err, context.DeadlineExceeded) && event == r3map.Event{}, "%v, %v", event, err)
	ok(t, m.WaitLocal(background, 1))
	fails(t, m.WaitLocal(background, 1.5), r3map.ErrInvalidArgument, "between 0 and 1")

	var group sync.WaitGroup
	for waiter := 0; waiter < 3; waiter++ {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := m.Next(background); !errors.Is(err, r3map.ErrClosed) {
				t.Errorf("a closed mount gave %v", err)
			}
		}()
	}
	ok(t, m.Close())
	group.Wait()
}

func TestEachEventIsGivenOnceAndInOrder(t *testing.T) {
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("m", openBackend(t, "memory:?size=1MiB")))
	m := open(t, server.URL()+"/m", r3map.WithDeadline(time.Second))
	// A machine that stands still may make a deadline pass before.
	var event r3map.Event
	for event.Kind != r3map.EventLocal {
		next, err := m.Next(background)
		ok(t, err)
		check(t, next.Sequence == event.Sequence+1, "%v after %v", next, event)
		event = next
	}
	check(t, event.Cause == nil, "%v has a cause", event)
	ok(t, server.Close())
	write(t, m, []byte("x"), 0)
	next, err := m.Next(background)
	ok(t, err)
	check(t, next.Sequence > event.Sequence && next.Kind != r3map.EventLocal && next.Cause != nil, "%v after %v", next, event)
	ok(t, m.Discard(background))
}
