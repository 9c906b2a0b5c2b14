package r3map_test

import (
	"runtime"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestABackendInGoIsReadWrittenAndSyncedByItsMethodsAndLetGoAtItsLastUse(t *testing.T) {
	s := newStore(300001)
	s.said.MaxRequest = 100000
	collected := make(chan struct{})
	runtime.SetFinalizer(s, func(*store) { close(collected) })
	m, err := r3map.OpenBackend(background, s)
	ok(t, err)
	written := fill(make([]byte, 300001), 2)
	write(t, m, written, 0)
	same(t, read(t, m, len(written), 0), written)
	ok(t, m.Sync(background))
	same(t, s.bytes, written)
	s.mutex.Lock()
	check(t, s.reads >= 4 && s.writes >= 4 && s.syncs == 1, "%d reads, %d writes, %d syncs", s.reads, s.writes, s.syncs)
	s.mutex.Unlock()

	// Exported besides, it lives until the last use ends, and no longer.
	server := serve(t, "127.0.0.1:0")
	exported, err := m.Backend()
	ok(t, err)
	ok(t, server.Export("m", exported))
	ok(t, exported.Close())
	remote := open(t, server.URL()+"/m")
	same(t, read(t, remote, 1, 300000), written[300000:])
	ok(t, remote.Close())
	ok(t, server.Close())
	ok(t, m.Close())
	s = nil
	for deadline := time.Now().Add(20 * time.Second); ; runtime.GC() {
		select {
		case <-collected:
			return
		case <-time.After(10 * time.Millisecond):
			check(t, time.Now().Before(deadline), "somebody still holds the backend")
		}
	}
}
