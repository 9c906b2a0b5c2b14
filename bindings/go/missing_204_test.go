package r3map_test

import (
	"math"
	"testing"

	"r3map.dev/go/r3map"
)

func TestOfALocalBackendNothingIsMissingAndOfARemoteOneMountedDirectEverything(t *testing.T) {
	m := open(t, "memory:?size=100000")
	missing, err := m.Missing(0, 100000)
	ok(t, err)
	check(t, len(missing) == 0, "%v is missing", missing)
	ok(t, m.Pull(background, 0, 100000))
	ok(t, m.Prefetch(0, 100000))
	_, err = m.Missing(1, 100000)
	fails(t, err, r3map.ErrOutOfRange, "outside")
	_, err = m.Missing(1, math.MaxInt64)
	fails(t, err, r3map.ErrOutOfRange, "outside")
	_, err = m.Missing(-1, 1)
	fails(t, err, r3map.ErrInvalidArgument, "1 bytes at -1")
	fails(t, m.Prefetch(0, -1), r3map.ErrInvalidArgument, "-1 bytes at 0")
	fails(t, m.Pull(background, 0, -1), r3map.ErrInvalidArgument, "-1 bytes at 0")

	server := serve(t, "127.0.0.1:0")
	exported, err := m.Backend()
	ok(t, err)
	ok(t, server.Export("m", exported))
	ok(t, exported.Close())
	remote := open(t, server.URL()+"/m", r3map.WithMode(r3map.ModeDirect))
	missing, err = remote.Missing(10, 50000)
	ok(t, err)
	check(t, len(missing) == 1 && missing[0] == r3map.Range{Offset: 10, Length: 50000}, "%v is missing", missing)
	fails(t, remote.Pull(background, 0, 1), r3map.ErrUnsupported, "mode=managed")
}

func TestMorePartsThanFitAtOnceAreAllListed(t *testing.T) {
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("m", openBackend(t, "memory:?size=4MiB")))
	m := open(t, server.URL()+"/m", r3map.WithPull(r3map.PullDemand), r3map.WithChunkSize(4096))
	for page := int64(0); page < 400; page += 2 {
		ok(t, m.Pull(background, page*4096, 4096))
	}
	missing, err := m.Missing(0, 400*4096)
	ok(t, err)
	check(t, len(missing) == 200, "%d parts", len(missing))
	for i, part := range missing {
		check(t, part == r3map.Range{Offset: int64(2*i+1) * 4096, Length: 4096}, "%v is number %d", part, i)
	}
}
