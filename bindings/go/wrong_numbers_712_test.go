package r3map_test

import (
	"io"
	"log/slog"
	"math"
	"testing"

	"r3map.dev/go/r3map"
)

func TestNegativeAndHugeNumbersAreErrorsAndNeverACrash(t *testing.T) {
	b := openBackend(t, "memory:?size=8192")
	m := mountNative(t, b)
	bytes := make([]byte, 16)
	for _, offset := range []int64{8192, math.MaxInt64 - 16, math.MaxInt64} {
		for _, of := range []r3map.Backend{b, at{m}} {
			n, err := of.ReadAt(bytes, offset)
			check(t, n == 0 && err == io.EOF, "a read at %d gave %d, %v", offset, n, err)
			_, err = of.WriteAt(bytes, offset)
			fails(t, err, r3map.ErrOutOfRange, "16 bytes at")
		}
		fails(t, m.Pull(background, offset, 16), r3map.ErrOutOfRange, "")
		fails(t, m.Prefetch(offset, 16), r3map.ErrOutOfRange, "")
		_, err := m.Missing(offset, 16)
		fails(t, err, r3map.ErrOutOfRange, "")
	}
	for _, offset := range []int64{-1, -16, math.MinInt64} {
		for _, of := range []r3map.Backend{b, at{m}} {
			_, err := of.ReadAt(bytes, offset)
			fails(t, err, r3map.ErrInvalidArgument, "is negative")
			_, err = of.WriteAt(bytes, offset)
			fails(t, err, r3map.ErrInvalidArgument, "is negative")
		}
		fails(t, m.Pull(background, offset, 16), r3map.ErrInvalidArgument, "negative")
		fails(t, m.Prefetch(0, offset), r3map.ErrInvalidArgument, "negative")
		_, err := m.Missing(offset, 16)
		fails(t, err, r3map.ErrInvalidArgument, "negative")
		_, err = m.ReadAtContext(background, bytes, offset)
		fails(t, err, r3map.ErrInvalidArgument, "is negative")
		_, err = m.WriteAtContext(background, bytes, offset)
		fails(t, err, r3map.ErrInvalidArgument, "is negative")
	}
	fails(t, m.Pull(background, 1, math.MaxInt64), r3map.ErrOutOfRange, "")
	for _, share := range []float64{-0.1, 1.1, math.NaN(), math.Inf(1)} {
		fails(t, m.WaitLocal(background, share), r3map.ErrInvalidArgument, "between 0 and 1")
	}
	for _, bytes := range []int64{0, 1, 4095, 5000, 64 << 20, math.MaxInt64, -1} {
		_, err := r3map.OpenBackend(background, b, r3map.WithChunkSize(bytes))
		fails(t, err, r3map.ErrInvalidArgument, "chunk_size")
	}
	_, err := r3map.OpenBackend(background, b, r3map.WithMode(math.MaxUint32))
	fails(t, err, r3map.ErrInvalidArgument, "4294967295")
	_, err = r3map.Serve("", r3map.WithMaxConnections(math.MaxInt))
	fails(t, err, r3map.ErrInvalidArgument, "max_connections")

	// Any level is one of slog's; the least says most.
	for _, level := range []slog.Level{math.MinInt, math.MaxInt} {
		ok(t, r3map.LogTo(slog.New(slog.NewTextHandler(io.Discard, nil)), level))
	}
	ok(t, r3map.LogTo(nil, 0))
}

// A mount as a backend written in Go.
type at struct{ *r3map.Mount }

func (a at) Size() (int64, error) { return a.Mount.Size(), nil }
func (a at) Sync() error          { return a.Mount.Sync(background) }
