package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

// A backend that does its calls wrongly.
type wrong struct{ *store }

func (w wrong) ReadAt(p []byte, _ int64) (int, error) { return len(p) - 1, nil }

func (w wrong) WriteAt([]byte, int64) (int, error) { panic("on purpose") }

func TestABackendThatDoesLessThanAllOrPanicsGivesAnErrorAndNotZerosOrTheEnd(t *testing.T) {
	m, err := r3map.OpenBackend(background, wrong{newStore(4096)})
	ok(t, err)
	n, err := m.ReadAt(make([]byte, 10), 0)
	fails(t, err, r3map.ErrIO, "9 of 10 bytes")
	check(t, n == 0, "%d bytes beside an error", n)
	_, err = m.WriteAt([]byte("x"), 0)
	fails(t, err, r3map.ErrInternal, "panicked: on purpose")
	ok(t, m.Discard(background))
}
