package r3map_test

import "testing"

func TestABackendOpensByItsURLAndSaysItsSize(t *testing.T) {
	_, url := newFile(t, 777)
	for url, expected := range map[string]int64{"memory:?size=12345": 12345, url: 777} {
		b := openBackend(t, url)
		size, err := b.Size()
		ok(t, err)
		readOnly, err := b.ReadOnly()
		ok(t, err)
		check(t, size == expected && !readOnly, "%s: %d bytes, read-only %v", url, size, readOnly)
	}
}
