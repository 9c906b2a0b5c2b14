package r3map_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

// What this process holds: descriptors, threads of the library, goroutines.
func held(t *testing.T) (all [3]int) {
	t.Helper()
	descriptors, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	names, err := filepath.Glob("/proc/self/task/*/comm")
	ok(t, err)
	for _, name := range names {
		// Gone is what ended meanwhile.
		if comm, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(comm), "r3map") {
			all[1]++
		}
	}
	all[0], all[2] = len(descriptors), runtime.NumGoroutine()
	return all
}

func TestAThousandOpenedAndClosedHandlesLeaveNothingBehind(t *testing.T) {
	once := func() {
		ctx, cancel := context.WithCancel(background)
		defer cancel()
		server, err := r3map.Serve("127.0.0.1:0")
		ok(t, err)
		ok(t, server.Export("m", newStore(1<<20)))
		m, err := r3map.Open(ctx, server.URL()+"/m", r3map.WithPull(r3map.PullDemand))
		ok(t, err)
		_, err = m.ReadAtContext(ctx, make([]byte, 1), 1000)
		ok(t, err)
		// Where there is no device for one it fails, which must leave nothing behind either.
		if slice, err := m.Slice(ctx); err == nil {
			slice[1000]++
		}
		ok(t, m.CloseContext(ctx))
		ok(t, server.Close())
	}
	once()
	before := held(t)
	for i := 0; i < 1000; i++ {
		once()
	}
	var after [3]int
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		after = held(t)
		if after[0] <= before[0] && after[1] <= before[1] && after[2] <= before[2] {
			return
		}
	}
	t.Fatalf("descriptors, threads and goroutines: %v, then %v", before, after)
}
