package r3map_test

import (
	"io"
	"math/rand"
	"os"
	"testing"

	"r3map.dev/go/r3map"
)

func TestByEveryViewOfAnNBDDeviceTheBytesAreThoseOfAPlainArray(t *testing.T) {
	const size = 70001
	stored, url := newFile(t, size)
	m := open(t, url, r3map.WithDevice("nbd"))
	path, err := m.Path(background)
	if err != nil && os.Getenv("R3MAP_IN_GUEST") == "" {
		t.Skipf("LEFT TO THE GUEST: %v", err)
	}
	ok(t, err)
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	slice, err := m.Slice(background)
	ok(t, err)
	model := read(t, m, size, 0)
	random := rand.New(rand.NewSource(12345))
	for round := 0; round < 300; round++ {
		offset := random.Intn(size)
		length := random.Intn(size - offset + 1)
		view := []interface {
			io.ReaderAt
			io.WriterAt
		}{m, device, memory(slice)}[round/2%3]
		if round%2 == 0 {
			data := fill(make([]byte, length), round)
			copy(model[offset:], data)
			write(t, view, data, int64(offset))
		} else {
			same(t, read(t, view, length, int64(offset)), model[offset:offset+length])
		}
	}
	ok(t, m.Sync(background))
	found, err := os.ReadFile(stored)
	ok(t, err)
	same(t, found, model)
	ok(t, device.Close())
	ok(t, m.Close())
}

// A slice, read and written as a file is.
type memory []byte

func (b memory) ReadAt(p []byte, offset int64) (int, error)  { return copy(p, b[offset:]), nil }
func (b memory) WriteAt(p []byte, offset int64) (int, error) { return copy(b[offset:], p), nil }
