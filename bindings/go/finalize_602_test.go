package r3map_test

import (
	"context"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAfterFinalizeTheRegionIsHereWithEveryByteThatWasWrittenThere(t *testing.T) {
	for _, how := range []struct{ local, when string }{{"memory:", ""}, {newPlace(t), "95%"}, {"memory:", "pause<10s"}} {
		s := startSource(t, 2000001, &source{})
		l := leech(t, s.seeder.URL(), how.local)
		var m *r3map.Mount
		if how.when == "" {
			m = finalize(t, l)
		} else {
			var err error
			m, err = l.FinalizeWhen(patience(t), how.when)
			ok(t, err)
		}
		state, err := l.State()
		ok(t, err)
		check(t, state == r3map.LeechOwner || state == r3map.LeechComplete, "it is %v", state)
		// It is this side's at once; what is not here comes when it is asked for.
		last := read(t, m, 1, 2000000)
		write(t, m, []byte("ours"), 1000)
		s.end(t)
		check(t, last[0] == s.model[2000000], "the last byte is %d", last[0])
		copy(s.model[1000:], "ours")
		ok(t, m.WaitLocal(patience(t), 1))
		holds(t, m, s.model)
		ok(t, l.Close())
		ok(t, m.Sync(background))
		ok(t, m.Close())
	}
}

func TestAConditionThatIsNoneIsRefusedAndAContextEndsTheWaitForOne(t *testing.T) {
	s := startSource(t, 100001, &source{})
	l := leech(t, s.seeder.URL(), "memory:")
	for _, when := range []string{"soon", "101%", ""} {
		_, err := l.FinalizeWhen(patience(t), when)
		fails(t, err, r3map.ErrInvalidArgument, `"`+when+`"`)
	}
	_, err := l.FinalizeWhen(background, "9\x00%")
	fails(t, err, r3map.ErrInvalidArgument, "NUL")
	over, cancel := context.WithCancel(background)
	cancel()
	_, err = l.FinalizeWhen(over, "95%")
	fails(t, err, r3map.ErrCancelled, "")
	m := finalize(t, l)
	s.end(t)
	holds(t, m, s.model)
	ok(t, m.Close())
}
