package r3map_test

import "testing"

func TestAMountOpensWithoutADeviceKeepsItsBackendAndStandsWhereABackendMay(t *testing.T) {
	b := openBackend(t, "memory:?size=10000")
	first := mountNative(t, b)
	ok(t, b.Close())
	readOnly, err := first.ReadOnly()
	ok(t, err)
	device, err := first.Device()
	ok(t, err)
	check(t, first.Size() == 10000 && !readOnly && device == "", "%d, %v, %q", first.Size(), readOnly, device)

	again, err := first.Backend()
	ok(t, err)
	second := mountNative(t, again)
	ok(t, again.Close())
	write(t, second, []byte("abc"), 9997)
	same(t, read(t, first, 3, 9997), []byte("abc"))
	ok(t, second.Close())
	same(t, read(t, first, 3, 9997), []byte("abc"))
}
