package r3map_test

import (
	"io"
	"math"
	"testing"

	"r3map.dev/go/r3map"
)

func TestWhatIsWrittenToABackendIsReadBackAndARangeOutsideIsRefused(t *testing.T) {
	b := openBackend(t, "memory:?size=100001")
	written := fill(make([]byte, 100001), 1)
	write(t, b, written, 0)
	same(t, read(t, b, len(written), 0), written)
	same(t, read(t, b, 1, 100000), written[100000:])
	write(t, b, nil, 100001)
	ok(t, b.Sync())

	n, err := b.ReadAt(make([]byte, 2), 100000)
	check(t, n == 1 && err == io.EOF, "%d, %v", n, err)
	_, err = b.WriteAt([]byte("xy"), 100000)
	fails(t, err, r3map.ErrOutOfRange, "2 bytes at 100000")
	_, err = b.WriteAt([]byte("x"), math.MaxInt64)
	fails(t, err, r3map.ErrOutOfRange, "outside")
	_, err = b.ReadAt(make([]byte, 2), -1)
	fails(t, err, r3map.ErrInvalidArgument, "-1 is negative")
	_, err = b.WriteAt([]byte("x"), math.MinInt64)
	fails(t, err, r3map.ErrInvalidArgument, "is negative")
}
