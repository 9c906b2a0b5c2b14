package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestTheSecondCloseFailsClosedAndHarmsNothing(t *testing.T) {
	_, url := newFile(t, 5000)
	b := openBackend(t, url)
	m := mountNative(t, b)
	write(t, m, []byte("kept"), 4996)
	ok(t, m.Close())
	fails(t, m.Close(), r3map.ErrClosed, "the mount is closed")
	fails(t, m.Discard(background), r3map.ErrClosed, "the mount is closed")
	same(t, read(t, b, 4, 4996), []byte("kept"))
	ok(t, b.Close())
	fails(t, b.Close(), r3map.ErrClosed, "the backend is closed")
	server := serve(t, "")
	ok(t, server.Close())
	fails(t, server.Close(), r3map.ErrClosed, "the server is closed")
}
