package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestAViewThatADeviceDoesNotGiveNamesTheDevicesThatCould(t *testing.T) {
	m := open(t, "memory:?size=65536", r3map.WithDevice("fuse"))
	_, err := m.Slice(background)
	fails(t, err, r3map.ErrUnsupported, "device=nbd or userfaultfd")
	ok(t, m.Close())
	m = open(t, "memory:?size=65536", r3map.WithDevice("userfaultfd"))
	_, err = m.Path(background)
	fails(t, err, r3map.ErrUnsupported, "device=nbd or fuse")
	ok(t, m.Close())
}

func TestASliceOverABackendInGoIsRefusedWithWhatToDoInstead(t *testing.T) {
	over := mountStore(t, newStore(65536))
	again, err := over.Backend()
	ok(t, err)
	defer again.Close()
	for _, m := range []*r3map.Mount{
		over, mountStore(t, newStore(65536), r3map.WithMode(r3map.ModeManaged)), mountNative(t, again),
	} {
		_, err := m.Slice(background)
		fails(t, err, r3map.ErrUnsupported, "use read_at and write_at")
	}
}
