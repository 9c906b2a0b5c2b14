package r3map_test

import (
	"os"
	"testing"
	"unsafe"
)

func TestASliceShowsWhatReadAtReadsAndItsStoresAreReadAndSynced(t *testing.T) {
	const length = 1000001
	path, url := newFile(t, length)
	expected := fill(make([]byte, length), 5)
	m := open(t, url)
	write(t, m, expected, 0)
	bytes, err := m.Slice(background)
	okOrSkip(t, err)
	check(t, len(bytes) == length && cap(bytes) == length, "%d bytes of %d", len(bytes), cap(bytes))
	same(t, bytes, expected)
	again, err := m.Slice(background)
	ok(t, err)
	check(t, unsafe.SliceData(again) == unsafe.SliceData(bytes), "another slice the second time")
	device, err := m.Device()
	ok(t, err)
	check(t, device == "userfaultfd" || device == "nbd", "device %q", device)

	for at := 17; at < length; at += 50000 {
		expected[at] = ^expected[at]
		bytes[at] = expected[at]
	}
	bytes[length-1], expected[length-1] = 'e', 'e'
	same(t, read(t, m, length, 0), expected)
	write(t, m, []byte("written"), 4093)
	copy(expected[4093:], "written")
	same(t, bytes[4093:4100], []byte("written"))
	ok(t, m.Sync(background))
	stored, err := os.ReadFile(path)
	ok(t, err)
	same(t, stored, expected)
	ok(t, m.Close())
}
