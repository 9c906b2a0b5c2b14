package r3map

// #include <r3map.h>
import "C"

import (
	"context"
	"fmt"
)

// EventKind says what happened to a mount in the background.
type EventKind uint32

// The kinds. New ones may come.
const (
	// EventLocal says that every byte is here.
	EventLocal EventKind = C.R3MAP_MOUNT_LOCAL
	// EventDisconnected says that the remote is away.
	EventDisconnected EventKind = C.R3MAP_MOUNT_DISCONNECTED
	// EventRecovered says that the remote is back, or that pushes get through again.
	EventRecovered EventKind = C.R3MAP_MOUNT_RECOVERED
	// EventPushFailed says that a push failed; what it carried is kept and pushed again.
	EventPushFailed EventKind = C.R3MAP_MOUNT_PUSH_FAILED
	// EventCacheFull says that the local cache has no room.
	EventCacheFull EventKind = C.R3MAP_MOUNT_CACHE_FULL
)

// String gives the name, the same in every language.
func (k EventKind) String() string {
	switch k {
	case EventLocal:
		return "local"
	case EventDisconnected:
		return "disconnected"
	case EventRecovered:
		return "recovered"
	case EventPushFailed:
		return "push_failed"
	case EventCacheFull:
		return "cache_full"
	}
	return fmt.Sprintf("event %d", uint32(k))
}

// Event is something that happened to a mount in the background.
type Event struct {
	// Sequence is its number; they grow.
	Sequence uint64
	// Kind is what happened.
	Kind EventKind
	// Cause is why, nil where nothing caused it.
	Cause error
}

// The place in a noun's events up to which they were taken.
type events struct {
	// Holds the sequence number of the last one while nobody waits.
	after chan uint64
	// Ends when the noun is closed.
	open context.Context
	end  context.CancelFunc
}

func (e *events) init() {
	e.after = make(chan uint64, 1)
	e.after <- 0
	e.open, e.end = context.WithCancel(context.Background())
}

// Ends every wait for an event.
func (e *events) close() { e.end() }

// Takes the next event: `call` waits for the first after a sequence number and gives its own.
func (e *events) next(ctx context.Context, noun string, call func(ctx context.Context, after uint64) (uint64, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.open, func() { cancel(ErrClosed) })()
	closed := func(err error) error {
		if e.open.Err() != nil {
			return newError(ErrClosed, "the %s is closed", noun)
		}
		return err
	}
	select {
	case <-ctx.Done():
		return closed(ended(ctx, "another call waits for the next event"))
	case after := <-e.after:
		sequence, err := call(ctx, after)
		if err != nil {
			e.after <- after
			return closed(err)
		}
		e.after <- sequence
		return nil
	}
}

// Next takes the next event, each once and none lost; it waits for one until the context or the mount ends.
func (m *Mount) Next(ctx context.Context) (Event, error) {
	if ctx == nil {
		return Event{}, invalid("the context is nil")
	}
	if err := m.enter(); err != nil {
		return Event{}, err
	}
	defer m.handle.leave()
	var event Event
	err := m.events.next(ctx, "mount", func(ctx context.Context, after uint64) (uint64, error) {
		var sequence C.uint64_t
		var kind C.uint32_t
		var cause *C.r3map_error
		err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
			return C.r3map_mount_next(m.c, C.uint64_t(after), 0, cancel, &sequence, &kind, &cause)
		})
		event = Event{Sequence: uint64(sequence), Kind: EventKind(kind), Cause: take(cause)}
		return event.Sequence, err
	})
	return event, err
}
