package r3map_test

import (
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestAnAppThatRefusesGoesOnWritingAndTheNextTimeItMoves(t *testing.T) {
	s := startSource(t, 500001, &source{refusals: 2})
	l := leech(t, s.seeder.URL(), "memory:")
	for i := 0; i < 2; i++ {
		m, err := l.Finalize(patience(t))
		fails(t, err, r3map.ErrBusy, "not now")
		check(t, m == nil, "a mount beside an error")
		state, err := l.State()
		ok(t, err)
		check(t, state == r3map.LeechPulling || state == r3map.LeechOutpaced, "it is %v", state)
	}
	m := finalize(t, l)
	s.end(t)
	holds(t, m, s.model)
	ok(t, m.Close())
}

func TestAnAppThatDoesNotAnswerIsTakenForARefusalAfterItsDeadline(t *testing.T) {
	_, url := newFile(t, 5000)
	m := open(t, url)
	s := seed(t, m, r3map.WithSuspendDeadline(50*time.Millisecond))
	l := leech(t, s.URL(), "memory:")
	_, err := l.Finalize(patience(t))
	fails(t, err, r3map.ErrBusy, "")
	expect(t, s, r3map.SeedWaiting)
	expect(t, s, r3map.SeedTracking)
	asked := expect(t, s, r3map.SeedSuspending)
	expect(t, s, r3map.SeedResumed)
	fails(t, s.Suspended(asked, nil), r3map.ErrStaleEpoch, "")
	fails(t, s.Refuse(asked, "late"), r3map.ErrStaleEpoch, "")
	fails(t, s.Refuse(asked, "\x00"), r3map.ErrInvalidArgument, "NUL")
	write(t, m, []byte("on"), 0)
	ok(t, l.Close())
	ok(t, s.Close())
	ok(t, m.Close())
}
