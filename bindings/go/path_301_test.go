package r3map_test

import (
	"os"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAFusePathIsARegularFileOfTheExactSizeAndAgreesWithTheHandle(t *testing.T) {
	m := open(t, "memory:?size=100001", r3map.WithDevice("fuse"))
	write(t, m, []byte("head"), 0)
	path, err := m.Path(background)
	okOrSkip(t, err)
	again, err := m.Path(background)
	ok(t, err)
	check(t, again == path, "%q, then %q", path, again)
	status, err := os.Stat(path)
	ok(t, err)
	check(t, status.Mode().IsRegular() && status.Size() == 100001, "%v of %d bytes", status.Mode(), status.Size())
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	same(t, read(t, file, 4, 0), []byte("head"))
	write(t, file, []byte("tail"), 99997)
	ok(t, file.Close())
	same(t, read(t, m, 4, 99997), []byte("tail"))
	ok(t, m.Close())
}
