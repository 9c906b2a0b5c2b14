package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestAReadOnlyMountReadsAndRefusesWrites(t *testing.T) {
	m := open(t, "memory:?size=8192", r3map.WithReadOnly())
	readOnly, err := m.ReadOnly()
	ok(t, err)
	check(t, readOnly, "it is not read-only")
	same(t, read(t, m, 1, 0), []byte{0})
	_, err = m.WriteAt([]byte{1}, 0)
	fails(t, err, r3map.ErrReadOnly, "read-only")
	ok(t, m.Close())
}
