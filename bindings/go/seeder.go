package r3map

// #include <r3map.h>
import "C"

import (
	"context"
	"fmt"
	"unsafe"
)

// Seeder is the side that a region moves away from while it is in use. The app takes its events with [Seeder.Next]:
//
//	SeedWaiting      nobody leeches
//	SeedTracking     a leecher pulls; the app goes on writing
//	SeedSuspending   stop writing, then Suspended, or Refuse: the pause begins
//	SeedResumed      nothing came of it: go on writing
//	SeedCommitted    the other side has the region; here every access fails ErrFenced from now on
//	SeedDrained      every byte is there: close
//
// The mount stays open beside its seeder, and is closed after it.
type Seeder struct {
	handle handle
	c      *C.r3map_seeder
	events events
	life   life
	url    string
	line   string
}

// SeedState is what a seeder's event says.
type SeedState uint32

// The states.
const (
	// SeedWaiting says that no leecher is here.
	SeedWaiting SeedState = C.R3MAP_SEED_WAITING
	// SeedTracking says that a leecher pulls, and writes are tracked.
	SeedTracking SeedState = C.R3MAP_SEED_TRACKING
	// SeedSuspending says that the leecher asks for the region: stop writing and say so, or refuse.
	SeedSuspending SeedState = C.R3MAP_SEED_SUSPENDING
	// SeedResumed says that the hand-over was refused or cut before the commit: go on writing.
	SeedResumed SeedState = C.R3MAP_SEED_RESUMED
	// SeedCommitted says that the leecher has the region; this side is fenced, and still serves what the leecher lacks.
	SeedCommitted SeedState = C.R3MAP_SEED_COMMITTED
	// SeedDrained says that the leecher has every byte.
	SeedDrained SeedState = C.R3MAP_SEED_DRAINED
	// SeedTrouble is a failure that the seeder goes on from; the cause says what.
	SeedTrouble SeedState = C.R3MAP_SEED_TROUBLE
)

var seedStates = [...]string{SeedWaiting: "waiting", SeedTracking: "tracking", SeedSuspending: "suspending",
	SeedResumed: "resumed", SeedCommitted: "committed", SeedDrained: "drained", SeedTrouble: "trouble"}

// String gives the name, the same in every language.
func (s SeedState) String() string {
	if s == 0 || int(s) >= len(seedStates) {
		return fmt.Sprintf("state %d", uint32(s))
	}
	return seedStates[s]
}

// SeedEvent is something that happened to a seeder.
type SeedEvent struct {
	// Sequence is its number; they grow.
	Sequence uint64
	// State is what happened.
	State SeedState
	// Cause is why, nil where nothing caused it.
	Cause error
}

// Seed seeds the mount, listening at host:port (port 0: one is chosen) or unix:/path. The mount stays in use.
func (m *Mount) Seed(ctx context.Context, listen string, options ...SeedOption) (*Seeder, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	defer m.handle.leave()
	return seed(ctx, listen, options, func(listen *C.char, options *C.r3map_seed_options, cancel *C.r3map_cancel,
		seeder **C.r3map_seeder) *C.r3map_error {
		return C.r3map_mount_seed(m.c, listen, options, cancel, seeder)
	})
}

// Seed seeds a mount as one name of the server, wherever that listens and whatever connections it is given. A name among
// the options is not looked at.
func (s *Server) Seed(name string, mount *Mount, options ...SeedOption) (*Seeder, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.handle.leave()
	if err := mount.enter(); err != nil {
		return nil, err
	}
	defer mount.handle.leave()
	return seed(context.Background(), name, options, func(name *C.char, options *C.r3map_seed_options, _ *C.r3map_cancel,
		seeder **C.r3map_seeder) *C.r3map_error {
		return C.r3map_server_seed(s.c, name, mount.c, options, seeder)
	})
}

// Seeds by a call that is given where to, the address or the name.
func seed(ctx context.Context, at string, options []SeedOption, call func(at *C.char, options *C.r3map_seed_options,
	cancel *C.r3map_cancel, seeder **C.r3map_seeder) *C.r3map_error) (*Seeder, error) {
	settings := newSeedSettings(options)
	defer settings.free()
	var c *C.r3map_seeder
	settings.text("the address or name", at, func(at *C.char) {
		if settings.err == nil {
			settings.err = wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
				return call(at, settings.c, cancel, &c)
			})
		}
	})
	if settings.err != nil {
		return nil, settings.err
	}
	var url, line *C.char
	err := take(C.r3map_seeder_url(c, &url))
	if err == nil {
		err = take(C.r3map_seeder_client_line(c, &line))
	}
	if err != nil {
		C.r3map_seeder_free(c)
		return nil, err
	}
	s := &Seeder{c: c, url: C.GoString(url), line: C.GoString(line), events: newEvents(), life: newLife()}
	s.handle.free = func() { C.r3map_seeder_free(c) }
	return s, nil
}

func (s *Seeder) enter() error {
	if s == nil {
		return invalid("the seeder is nil")
	}
	if !s.handle.enter() {
		return s.handle.refused("seeder")
	}
	return nil
}

// Makes a call of the seeder that does not wait for others.
func (s *Seeder) call(call func() *C.r3map_error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.handle.leave()
	return take(call())
}

// URL is that by which a leecher finds it, r3map://host:port/name; "" of one under a server, whose address and name make
// it.
func (s *Seeder) URL() string {
	if s == nil {
		return ""
	}
	return s.url
}

// ClientLine is the command by which a leecher takes the region, where a seeder that listens by itself made a certificate
// and a token; "" where it did not. It holds the token, a secret.
func (s *Seeder) ClientLine() string {
	if s == nil {
		return ""
	}
	return s.line
}

// Next takes the next event, each once and none lost; it waits for one until the context or the seeder ends.
func (s *Seeder) Next(ctx context.Context) (event SeedEvent, err error) {
	if err := s.enter(); err != nil {
		return SeedEvent{}, err
	}
	defer s.handle.leave()
	err = s.life.during(ctx, "seeder", func(ctx context.Context) error {
		return s.events.next(ctx, func(after uint64) (uint64, error) {
			var sequence C.uint64_t
			var state C.uint32_t
			var cause *C.r3map_error
			err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
				return C.r3map_seeder_next(s.c, C.uint64_t(after), 0, cancel, &sequence, &state, &cause)
			})
			event = SeedEvent{Sequence: uint64(sequence), State: SeedState(state), Cause: take(cause)}
			return event.Sequence, err
		})
	})
	return event, err
}

// Suspended says that the app has stopped writing, as the event asked. The payload, at most 16 MiB, goes with the region.
// From now on calls on the mount fail [ErrSuspended]; what comes of it is told by an event. An answer to an older event is
// [ErrStaleEpoch].
func (s *Seeder) Suspended(event SeedEvent, payload []byte) error {
	length := len(payload)
	if length == 0 {
		payload = noBytes[:]
	}
	return s.call(func() *C.r3map_error {
		return C.r3map_seeder_suspended(s.c, C.uint64_t(event.Sequence), unsafe.Pointer(&payload[0]), C.size_t(length))
	})
}

// Refuse says that the app does not stop now, though the event asked it to. The leecher is told the reason and goes on
// pulling. An answer to an older event is [ErrStaleEpoch].
func (s *Seeder) Refuse(event SeedEvent, reason string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.handle.leave()
	var texts settings
	texts.text("the reason", reason, func(reason *C.char) {
		texts.err = take(C.r3map_seeder_refuse(s.c, C.uint64_t(event.Sequence), reason))
	})
	return texts.err
}

// WaitDrained waits until the leecher has every byte.
func (s *Seeder) WaitDrained(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.handle.leave()
	return s.life.during(ctx, "seeder", func(ctx context.Context) error {
		return wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error {
			return C.r3map_seeder_wait_drained(s.c, 0, cancel)
		})
	})
}

// Abandon gives up what the leecher still lacks after the commit: those bytes are lost.
func (s *Seeder) Abandon() error {
	return s.call(func() *C.r3map_error { return C.r3map_seeder_abandon(s.c) })
}

// Reclaim takes the region back by force from a leecher that is lost for good: what was written there is lost, and should
// it come back it is fenced.
func (s *Seeder) Reclaim() error {
	return s.call(func() *C.r3map_error { return C.r3map_seeder_reclaim(s.c) })
}

// Stats gives the seeder's figures at this moment.
func (s *Seeder) Stats() (Stats, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.handle.leave()
	var stats *C.r3map_stats
	return takeStats(C.r3map_seeder_stats(s.c, &stats), &stats)
}

// Close ends it; a leecher that pulls hears so. [ErrBusy] between the commit and [SeedDrained], when the leecher still lacks
// bytes: wait, or give them up by Abandon. The mount stays open.
func (s *Seeder) Close() error { return s.CloseContext(context.Background()) }

// CloseContext is Close which ends when the context does.
func (s *Seeder) CloseContext(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.handle.leave()
	err := wait(ctx, func(cancel *C.r3map_cancel) *C.r3map_error { return C.r3map_seeder_close(s.c, cancel) })
	if err == nil {
		s.handle.close()
		s.life.end()
	}
	return err
}
