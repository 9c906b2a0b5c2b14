package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestAFileIsANewOneEachTimeAndAgreesWithTheHandle(t *testing.T) {
	m := open(t, "memory:?size=65536", r3map.WithDevice("fuse"))
	first, err := m.File(background)
	okOrSkip(t, err)
	second, err := m.File(background)
	ok(t, err)
	check(t, first.Fd() != second.Fd(), "the same descriptor twice")
	write(t, first, []byte("here"), 1000)
	same(t, read(t, second, 4, 1000), []byte("here"))
	same(t, read(t, m, 4, 1000), []byte("here"))
	ok(t, first.Close())
	ok(t, second.Close())
	ok(t, m.Close())
}
