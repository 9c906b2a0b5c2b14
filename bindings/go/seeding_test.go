package r3map_test

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

// As long as anything here may take; a test that works never waits for it.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// An app at the source of a migration: a region that is written while it is seeded, until it is asked to stop.
type source struct {
	mount  *r3map.Mount
	seeder *r3map.Seeder
	// What the region has to hold.
	model []byte
	// Given with the region.
	payload []byte
	// Refusals before it stops.
	refusals int
	failed   error
	// Closed after the first write.
	writes chan struct{}
	// Closed when every byte is at the other side, or something failed.
	drained chan struct{}
}

// Seeds a new file of that size with bytes in it, and starts the app, which has written by the time this returns.
func startSource(t *testing.T, size int64, s *source) *source {
	t.Helper()
	_, url := newFile(t, size)
	s.mount = open(t, url)
	s.model = fill(make([]byte, size), 99)
	write(t, s.mount, s.model, 0)
	s.seeder = seed(t, s.mount)
	s.run(t)
	<-s.writes
	return s
}

func (s *source) run(t *testing.T) {
	t.Helper()
	s.drained, s.writes = make(chan struct{}), make(chan struct{})
	ctx := patience(t)
	events := make(chan r3map.SeedEvent)
	go func() {
		defer close(events)
		for {
			event, err := s.seeder.Next(ctx)
			if err != nil {
				event = r3map.SeedEvent{State: r3map.SeedTrouble, Cause: err}
			}
			select {
			case events <- event:
			case <-ctx.Done():
				return
			}
			if err != nil || event.State == r3map.SeedDrained {
				return
			}
		}
	}()
	go func() {
		defer close(s.drained)
		s.edit(events)
	}()
}

// Writes here and there while the region is this side's.
func (s *source) edit(events <-chan r3map.SeedEvent) {
	random := rand.New(rand.NewSource(4711))
	ours := true
	var once sync.Once
	for {
		var event r3map.SeedEvent
		open := true
		if ours {
			select {
			case event, open = <-events:
			case <-time.After(time.Millisecond):
				for i := 0; i < 8 && s.failed == nil; i++ {
					data := fill(make([]byte, 700), random.Int())
					offset := random.Intn(len(s.model) - len(data))
					copy(s.model[offset:], data)
					_, s.failed = s.mount.WriteAt(data, int64(offset))
				}
				once.Do(func() { close(s.writes) })
				continue
			}
		} else {
			event, open = <-events
		}
		var err error
		switch {
		case !open || s.failed != nil:
			return
		case event.State == r3map.SeedSuspending && s.refusals > 0:
			s.refusals--
			ours, err = false, s.seeder.Refuse(event, "not now")
		case event.State == r3map.SeedSuspending:
			ours, err = false, s.seeder.Suspended(event, s.payload)
		case event.State == r3map.SeedResumed:
			ours = true
		case event.State == r3map.SeedTrouble:
			err = fmt.Errorf("trouble: %w", event.Cause)
		}
		if err != nil {
			s.failed = err
		}
	}
}

// Waits for the app's end, which is when every byte is at the other side, and closes.
func (s *source) end(t *testing.T) {
	t.Helper()
	<-s.drained
	ok(t, s.failed)
	ok(t, s.seeder.WaitDrained(patience(t)))
	ok(t, s.seeder.Close())
	ok(t, s.mount.Close())
}

func seed(t *testing.T, m *r3map.Mount, options ...r3map.SeedOption) *r3map.Seeder {
	t.Helper()
	s, err := m.Seed(background, "127.0.0.1:0", options...)
	ok(t, err)
	t.Cleanup(func() { s.Abandon(); s.Close() })
	return s
}

func leech(t *testing.T, url, local string, options ...r3map.MountOption) *r3map.Leecher {
	t.Helper()
	l, err := r3map.Leech(patience(t), url, local, options...)
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// The mount of a leecher's region.
func finalize(t *testing.T, l *r3map.Leecher) *r3map.Mount {
	t.Helper()
	m, err := l.Finalize(patience(t))
	ok(t, err)
	t.Cleanup(func() { m.Discard(background) })
	return m
}

// The next event has to be this one.
func expect(t *testing.T, s *r3map.Seeder, state r3map.SeedState) r3map.SeedEvent {
	t.Helper()
	event, err := s.Next(patience(t))
	ok(t, err)
	check(t, event.State == state, "event %d is %v and not %v: %v", event.Sequence, event.State, state, event.Cause)
	return event
}

// The mount holds just these bytes.
func holds(t *testing.T, m *r3map.Mount, model []byte) {
	t.Helper()
	check(t, m.Size() == int64(len(model)), "%d bytes where %d were expected", m.Size(), len(model))
	same(t, read(t, m, len(model), 0), model)
}

// Moves a region whose app stops at once; gives its mount at the other side.
func move(t *testing.T, s *r3map.Seeder, l *r3map.Leecher, payload []byte) *r3map.Mount {
	t.Helper()
	moved := make(chan *r3map.Mount, 1)
	failed := make(chan error, 1)
	ctx := patience(t)
	go func() {
		m, err := l.Finalize(ctx)
		moved <- m
		failed <- err
	}()
	ok(t, s.Suspended(expect(t, s, r3map.SeedSuspending), payload))
	expect(t, s, r3map.SeedCommitted)
	m := <-moved
	ok(t, <-failed)
	t.Cleanup(func() { m.Discard(background) })
	return m
}

// A file that is not there yet, as a URL.
func newPlace(t *testing.T) string { return "file://" + t.TempDir() + "/place" }
