package r3map_test

import (
	"os"
	"testing"

	"r3map.dev/go/r3map"
)

var modes = []r3map.Mode{r3map.ModeDirect, r3map.ModeManaged}

func TestAReadGivesEveryByteOfTheStoreOrFailsAndSaysWhy(t *testing.T) {
	const length = 200001
	path, url := newFile(t, length)
	stored := fill(make([]byte, length), 7)
	ok(t, os.WriteFile(path, stored, 0o600))
	for _, mode := range modes {
		m := open(t, url, r3map.WithMode(mode))
		same(t, read(t, m, length, 0), stored)
		same(t, read(t, m, 5, 4094), stored[4094:4099])
		same(t, read(t, m, 1, length-1), stored[length-1:])
		same(t, read(t, m, 0, length), nil)
		ok(t, m.Close())
	}

	s := newStore(length)
	s.fail(errOutOfOrder, -1)
	m := mountStore(t, s)
	found := fill(make([]byte, 10), 3)
	n, err := m.ReadAt(found, 0)
	fails(t, err, r3map.ErrIO, "out of order")
	check(t, n == 0, "%d bytes beside an error", n)
}
