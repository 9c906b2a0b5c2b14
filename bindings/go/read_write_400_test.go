package r3map_test

import (
	"math"
	"math/rand"
	"testing"

	"r3map.dev/go/r3map"
)

func TestWhateverLengthsAndOffsetsTheBytesAreThoseOfAPlainArray(t *testing.T) {
	const size = 70001
	m := open(t, "memory:?size=70001")
	model := make([]byte, size)
	random := rand.New(rand.NewSource(12345))
	for round := 0; round < 2000; round++ {
		offset := random.Intn(size)
		length := random.Intn(size - offset + 1)
		if round%2 == 0 {
			data := fill(make([]byte, length), round)
			copy(model[offset:], data)
			write(t, m, data, int64(offset))
		} else {
			same(t, read(t, m, length, int64(offset)), model[offset:offset+length])
		}
	}
	_, err := m.WriteAt(make([]byte, 2), size-1)
	fails(t, err, r3map.ErrOutOfRange, "2 bytes at 70000")
	_, err = m.WriteAt(make([]byte, 1), size)
	fails(t, err, r3map.ErrOutOfRange, "1 bytes at 70001")
	_, err = m.WriteAt(make([]byte, 1), math.MaxInt64)
	fails(t, err, r3map.ErrOutOfRange, "outside")
	_, err = m.WriteAt(nil, -1)
	fails(t, err, r3map.ErrInvalidArgument, "-1 is negative")
	_, err = m.ReadAt(nil, math.MinInt64)
	fails(t, err, r3map.ErrInvalidArgument, "is negative")
	same(t, read(t, m, size, 0), model)
	ok(t, m.Close())
}
