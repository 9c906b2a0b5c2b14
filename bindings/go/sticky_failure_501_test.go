package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestOnceAWriteWasLostEverySyncAndCloseSaysSoUntilTheMountIsDiscarded(t *testing.T) {
	s := newStore(65536)
	m := mountStore(t, s)
	s.fail(errOutOfOrder, 1)
	_, err := m.WriteAt([]byte("lost"), 0)
	fails(t, err, r3map.ErrIO, "out of order")
	write(t, m, []byte("kept"), 0)
	for i := 0; i < 3; i++ {
		fails(t, m.Sync(background), r3map.ErrIO, "an earlier write did not reach the backend")
	}
	fails(t, m.Close(), r3map.ErrIO, "the mount stays open")
	same(t, read(t, m, 4, 0), []byte("kept"))
	ok(t, m.Discard(background))
	fails(t, m.Close(), r3map.ErrClosed, "closed")
}
