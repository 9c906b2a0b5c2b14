package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestWhatTheAppHandsOverComesOutAtTheOtherSide(t *testing.T) {
	const most = 16 << 20
	payload := fill(make([]byte, most+1), 5)
	for _, given := range [][]byte{nil, []byte("registers"), payload[:most]} {
		s := startSource(t, 100001, &source{payload: given})
		found, err := s.mount.Payload()
		ok(t, err)
		check(t, len(found) == 0, "%d bytes where none were given", len(found))
		m := finalize(t, leech(t, s.seeder.URL(), "memory:"))
		found, err = m.Payload()
		ok(t, err)
		same(t, found, given)
		s.end(t)
		holds(t, m, s.model)
		ok(t, m.Close())
	}
	_, url := newFile(t, 5000)
	s := seed(t, open(t, url))
	fails(t, s.Suspended(r3map.SeedEvent{Sequence: 1}, payload), r3map.ErrInvalidArgument, "16777216")
	ok(t, s.Close())
}
