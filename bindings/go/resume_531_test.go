package r3map_test

import (
	"path/filepath"
	"testing"

	"r3map.dev/go/r3map"
)

func cached(t *testing.T) []r3map.MountOption {
	return []r3map.MountOption{
		r3map.WithCache("file://" + filepath.Join(t.TempDir(), "cache")),
		r3map.WithPull(r3map.PullDemand),
		r3map.WithPushInterval(0),
	}
}

func figure(t *testing.T, m *r3map.Mount, name string) uint64 {
	t.Helper()
	stats, err := m.Stats()
	ok(t, err)
	return stats[name]
}

func TestASecondMountGoesOnWithTheCacheOfTheFirst(t *testing.T) {
	_, url := newFile(t, 100000)
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("m", openBackend(t, url)))
	options := cached(t)
	m := open(t, server.URL()+"/m", options...)
	ok(t, m.Pull(background, 0, 100000))
	write(t, m, []byte("kept"), 5000)
	ok(t, m.Close())
	m = open(t, server.URL()+"/m", options...)
	same(t, read(t, m, 4, 5000), []byte("kept"))
	check(t, figure(t, m, "local_bytes") == 100000, "all of it is here")
	check(t, figure(t, m, "pulled_bytes") == 0, "nothing was pulled again")
	ok(t, m.Close())
}
