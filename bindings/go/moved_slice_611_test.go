package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestStoresToASliceAtTheSourceAreInTheSliceAtTheDestination(t *testing.T) {
	const length = 3000001
	_, url := newFile(t, length)
	m := open(t, url)
	slice, err := m.Slice(background)
	okOrSkip(t, err)
	fill(slice, 1)
	s := seed(t, m)
	l := leech(t, s.URL(), "memory:", r3map.WithPrepare(r3map.ViewSlice))
	expect(t, s, r3map.SeedWaiting)
	expect(t, s, r3map.SeedTracking)
	ok(t, l.WaitLocal(patience(t), 0.9))
	// What is stored now is sent again.
	for at := 0; at < length; at += 10007 {
		slice[at] = 'n'
	}
	model := append([]byte(nil), slice...)
	moved := move(t, s, l, nil)
	there, err := moved.Slice(background)
	ok(t, err)
	same(t, there, model)
	there[length-1], model[length-1] = 'e', 'e'
	holds(t, moved, model)
	expect(t, s, r3map.SeedDrained)
	ok(t, s.Close())
	check(t, touching(func() { slice[0]++ }) != nil, "the source's slice can still be written")
	ok(t, m.Close())
	ok(t, l.Close())
	ok(t, moved.Close())
}
