package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestARegionGoesFromPlaceToPlaceAndEveryByteIsTheLastOneWritten(t *testing.T) {
	const size, hops = 1000001, 4
	_, first := newFile(t, size)
	places := []string{first, newPlace(t), newPlace(t)}
	model := make([]byte, size)
	m := open(t, places[0])
	for hop := 0; hop < hops; hop++ {
		// The app writes at this side, moves, and goes on at the other.
		for i := 0; i < 20; i++ {
			offset := (hop*20 + i) * 7919 * 13 % (size - 5000)
			write(t, m, fill(model[offset:offset+5000], hop*100+i), int64(offset))
		}
		s := seed(t, m)
		expect(t, s, r3map.SeedWaiting)
		l := leech(t, s.URL(), places[(hop+1)%3])
		expect(t, s, r3map.SeedTracking)
		ok(t, l.WaitLocal(patience(t), 1))
		write(t, m, fill(model[:100], hop), 0)
		moved := move(t, s, l, nil)
		expect(t, s, r3map.SeedDrained)
		ok(t, s.Close())
		ok(t, m.Close())
		ok(t, l.Close())
		m = moved
		holds(t, m, model)
	}
	ok(t, m.WaitLocal(patience(t), 1))
	ok(t, m.Close())
	// What came to rest is an ordinary file again.
	m = open(t, places[hops%3])
	holds(t, m, model)
	ok(t, m.Close())
}
