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
	// EventDrained says that the source of a mount that was leeched knows that every byte is here.
	EventDrained EventKind = C.R3MAP_MOUNT_DRAINED
	// EventFenced says that the source of a mount that was leeched took the region back by force.
	EventFenced EventKind = C.R3MAP_MOUNT_FENCED
	// EventAbandoned says that the source of a mount that was leeched gave up what is not here yet.
	EventAbandoned EventKind = C.R3MAP_MOUNT_ABANDONED
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
	case EventDrained:
		return "drained"
	case EventFenced:
		return "fenced"
	case EventAbandoned:
		return "abandoned"
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
}

func newEvents() events {
	e := events{after: make(chan uint64, 1)}
	e.after <- 0
	return e
}

// Takes the next event: `call` waits for the first after a sequence number and gives its own.
func (e *events) next(ctx context.Context, call func(after uint64) (uint64, error)) error {
	select {
	case <-ctx.Done():
		return ended(ctx, "another call waits for the next event")
	case after := <-e.after:
		sequence, err := call(after)
		if err != nil {
			sequence = after
		}
		e.after <- sequence
		return err
	}
}

// Next takes the next event, each once and none lost; it waits for one until the context or the mount ends.
func (m *Mount) Next(ctx context.Context) (event Event, err error) {
	if err := m.enter(); err != nil {
		return Event{}, err
	}
	defer m.handle.leave()
	err = m.life.during(ctx, "mount", func(ctx context.Context) error {
		return m.events.next(ctx, func(after uint64) (uint64, error) {
			var sequence C.uint64_t
			var kind C.uint32_t
			var cause *C.r3map_error
			err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
				return C.r3map_mount_next(m.c, C.uint64_t(after), 0, cancel, &sequence, &kind, &cause)
			})
			event = Event{Sequence: uint64(sequence), Kind: EventKind(kind), Cause: take(cause)}
			return event.Sequence, err
		})
	})
	return event, err
}
