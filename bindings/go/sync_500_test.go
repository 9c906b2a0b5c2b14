package r3map_test

import (
	"os"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAfterSyncTheBytesAreInTheFileAndCloseSyncsToo(t *testing.T) {
	path, url := newFile(t, 9999)
	stored := func(offset int, expected string) {
		t.Helper()
		found, err := os.ReadFile(path)
		ok(t, err)
		same(t, found[offset:offset+len(expected)], []byte(expected))
	}
	m := open(t, url)
	write(t, m, []byte("synced"), 100)
	ok(t, m.Sync(background))
	stored(100, "synced")
	write(t, m, []byte("closed"), 9993)
	ok(t, m.Close())
	stored(9993, "closed")
	m = open(t, url)
	ok(t, m.Discard(background))
	fails(t, m.Discard(background), r3map.ErrClosed, "the mount is closed")
}
