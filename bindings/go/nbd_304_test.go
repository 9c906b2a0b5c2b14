package r3map_test

import (
	"os"
	"strings"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAnNBDDeviceGivesAPathAFileAndASliceWhichAgree(t *testing.T) {
	stored, url := newFile(t, 1<<20)
	m := open(t, url, r3map.WithDevice("nbd"))
	path, err := m.Path(background)
	if err != nil && os.Getenv("R3MAP_IN_GUEST") == "" {
		t.Skipf("LEFT TO THE GUEST: %v", err)
	}
	ok(t, err)
	device, err := m.Device()
	ok(t, err)
	check(t, device == "nbd" && strings.HasPrefix(path, "/dev/nbd"), "%s at %s", device, path)
	opened, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	file, err := m.File(background)
	ok(t, err)
	bytes, err := m.Slice(background)
	ok(t, err)
	check(t, len(bytes) == 1<<20, "%d bytes", len(bytes))

	write(t, opened, []byte("path"), 5000)
	write(t, file, []byte("file"), 70000)
	copy(bytes[200000:], "memory")
	write(t, m, []byte("handle"), 300000)
	same(t, bytes[5000:5004], []byte("path"))
	same(t, bytes[70000:70004], []byte("file"))
	same(t, bytes[300000:300006], []byte("handle"))
	same(t, read(t, m, 6, 200000), []byte("memory"))
	same(t, read(t, opened, 6, 300000), []byte("handle"))
	ok(t, m.Sync(background))
	found, err := os.ReadFile(stored)
	ok(t, err)
	same(t, found[200000:200006], []byte("memory"))
	ok(t, opened.Close())
	ok(t, file.Close())
	ok(t, m.Close())
}
