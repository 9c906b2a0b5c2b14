package r3map_test

import (
	"path/filepath"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestTheOrderOfFirstAccessesIsSavedAndPulledFirstByALaterMount(t *testing.T) {
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("m", openBackend(t, "memory:?size=1MiB")))
	ok(t, server.Export("other", openBackend(t, "memory:?size=2MiB")))
	trace := filepath.Join(t.TempDir(), "trace")
	m := open(t, server.URL()+"/m", r3map.WithPull(r3map.PullDemand))
	_, err := m.ReadAt(make([]byte, 10), 40960)
	ok(t, err)
	ok(t, m.TraceSave(background, trace))
	fails(t, m.TraceSave(background, "/nowhere/at/all"), r3map.ErrNotFound, "/nowhere")
	ok(t, m.Close())

	m = open(t, server.URL()+"/m", r3map.WithPull(r3map.PullDemand), r3map.WithTrace(trace))
	until := time.Now().Add(time.Minute)
	for missing := 1; missing > 0; time.Sleep(time.Millisecond) {
		check(t, time.Now().Before(until), "the traced page did not come")
		found, err := m.Missing(40960, 4096)
		ok(t, err)
		missing = len(found)
	}
	rest, err := m.Missing(0, 4096)
	ok(t, err)
	check(t, len(rest) == 1, "%v is missing", rest)
	_, err = r3map.Open(background, server.URL()+"/other", r3map.WithTrace(trace))
	fails(t, err, r3map.ErrInvalidArgument, trace)
}
