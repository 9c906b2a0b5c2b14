package r3map_test

import (
	"os"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAWriteChangesTheBytesOfItsRangeAndNoOthers(t *testing.T) {
	const length = 200001
	path, url := newFile(t, length)
	expected := make([]byte, length)
	for i, mode := range modes {
		m := open(t, url, r3map.WithMode(mode))
		for j, part := range [][2]int{{0, 1}, {4095, 2}, {8192, 4096}, {65536, 70000}, {200000, 1}} {
			data := fill(expected[part[0]:part[0]+part[1]], 10*i+j)
			write(t, m, data, int64(part[0]))
		}
		write(t, m, nil, length)
		same(t, read(t, m, length, 0), expected)
		n, err := m.WriteAt([]byte("xy"), length-1)
		fails(t, err, r3map.ErrOutOfRange, "2 bytes at 200000")
		check(t, n == 0, "%d bytes beside an error", n)
		ok(t, m.Close())
		stored, err := os.ReadFile(path)
		ok(t, err)
		same(t, stored, expected)
	}
}
