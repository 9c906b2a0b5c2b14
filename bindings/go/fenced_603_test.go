package r3map_test

import (
	"errors"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAfterTheCommitEveryWayToTheRegionAtItsSourceFailsFenced(t *testing.T) {
	_, url := newFile(t, 200001)
	m := open(t, url)
	write(t, m, []byte("before"), 0)
	s := seed(t, m)
	waiting := expect(t, s, r3map.SeedWaiting)
	l := leech(t, s.URL(), "memory:")
	expect(t, s, r3map.SeedTracking)
	moved := move(t, s, l, nil)
	fails(t, s.Suspended(waiting, nil), r3map.ErrStaleEpoch, "")

	refused := func(m *r3map.Mount) {
		t.Helper()
		_, err := m.ReadAt(make([]byte, 1), 0)
		fails(t, err, r3map.ErrFenced, "")
		_, err = m.WriteAt(make([]byte, 1), 0)
		fails(t, err, r3map.ErrFenced, "")
		check(t, errors.Is(err, r3map.ErrFenced), "%v is not ErrFenced", err)
	}
	refused(m)
	fails(t, m.Sync(background), r3map.ErrFenced, "")
	_, err := m.Path(background)
	fails(t, err, r3map.ErrFenced, "")
	_, err = m.File(background)
	fails(t, err, r3map.ErrFenced, "")
	expect(t, s, r3map.SeedDrained)
	ok(t, s.Close())
	refused(m)
	ok(t, m.Close())

	// Here it stays the other side's, whoever opens it.
	again := open(t, url)
	refused(again)
	ok(t, again.Close())
	same(t, read(t, moved, 6, 0), []byte("before"))
	ok(t, moved.Close())
}
