package r3map_test

import (
	"io"
	"testing"
	"testing/iotest"
)

func TestAMountAndABackendReadAsAnIoReaderAtDoes(t *testing.T) {
	content := fill(make([]byte, 10007), 9)
	m := open(t, "memory:?size=10007")
	write(t, m, content, 0)
	b, err := m.Backend()
	ok(t, err)
	defer b.Close()
	for _, from := range []io.ReaderAt{m, b} {
		ok(t, iotest.TestReader(io.NewSectionReader(from, 0, 10007), content))
		n, err := from.ReadAt(make([]byte, 10), 10000)
		check(t, n == 7 && err == io.EOF, "across the end: %d, %v", n, err)
		n, err = from.ReadAt(make([]byte, 7), 10000)
		check(t, n == 7 && err == nil, "to the end: %d, %v", n, err)
		n, err = from.ReadAt(make([]byte, 1), 10007)
		check(t, n == 0 && err == io.EOF, "at the end: %d, %v", n, err)
		n, err = from.ReadAt(make([]byte, 1), 1<<62)
		check(t, n == 0 && err == io.EOF, "far behind the end: %d, %v", n, err)
		n, err = from.ReadAt(nil, 1<<62)
		check(t, n == 0 && err == nil, "nothing: %d, %v", n, err)
	}
	n, err := m.ReadAtContext(background, make([]byte, 10), 10000)
	check(t, n == 7 && err == io.EOF, "with a context: %d, %v", n, err)
}
