package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestALeecherPullsARegionWhileItIsWrittenAndOneThatIsClosedLeavesItThere(t *testing.T) {
	s := startSource(t, 3000001, &source{})
	place := newPlace(t)
	l := leech(t, s.seeder.URL(), place)
	state, err := l.State()
	ok(t, err)
	check(t, state == r3map.LeechPulling || state == r3map.LeechOutpaced, "it is %v", state)
	_, err = r3map.Leech(background, s.seeder.URL(), "memory:")
	fails(t, err, r3map.ErrBusy, "")
	ok(t, l.WaitLocal(patience(t), 0.5))
	stats, err := l.Stats()
	ok(t, err)
	check(t, stats["size"] == 3000001 && stats["local_bytes"] > 0, "%v", stats)
	ok(t, l.Close())

	// Nothing moved: it is leeched anew, from the start or from what is here of it.
	l = leech(t, s.seeder.URL(), place)
	m := finalize(t, l)
	ok(t, m.WaitLocal(patience(t), 1))
	s.end(t)
	holds(t, m, s.model)
	ok(t, l.Close())
	ok(t, m.Close())
}
