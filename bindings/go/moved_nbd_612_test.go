package r3map_test

import (
	"os"
	"strings"
	"testing"

	"r3map.dev/go/r3map"
)

func TestWhatIsWrittenToAnNBDDeviceAtTheSourceIsOnThatOfTheDestination(t *testing.T) {
	const length = 1 << 20
	_, url := newFile(t, length)
	m := open(t, url, r3map.WithDevice("nbd"))
	path, err := m.Path(background)
	if err != nil && os.Getenv("R3MAP_IN_GUEST") == "" {
		t.Skipf("LEFT TO THE GUEST: %v", err)
	}
	ok(t, err)
	model := fill(make([]byte, length), 8)
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	write(t, device, model, 0)
	s := seed(t, m)
	l := leech(t, s.URL(), "memory:", r3map.WithDevice("nbd"), r3map.WithPrepare(r3map.ViewPath))
	expect(t, s, r3map.SeedWaiting)
	expect(t, s, r3map.SeedTracking)
	ok(t, l.WaitLocal(patience(t), 0.5))
	// No fsync: the seeder flushes the device itself.
	write(t, device, fill(model[100000:150000], 77), 100000)
	ok(t, device.Close())

	moved := move(t, s, l, nil)
	there, err := moved.Path(background)
	ok(t, err)
	check(t, strings.HasPrefix(there, "/dev/nbd") && there != path, "it moved from %s to %s", path, there)
	found, err := os.ReadFile(there)
	ok(t, err)
	same(t, found, model)
	expect(t, s, r3map.SeedDrained)
	ok(t, s.Close())
	ok(t, m.Close())
	ok(t, l.Close())
	ok(t, moved.Close())
}
