package r3map_test

import (
	"os"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func TestAMountThatIsOfflineWorksOnWhatIsHereAndPushesLater(t *testing.T) {
	path, url := newFile(t, 100000)
	address := "unix:" + socketPath(t)
	server := serve(t, address)
	ok(t, server.Export("m", openBackend(t, url)))
	remote := server.URL() + "?name=m"
	options := append(cached(t), r3map.WithDeadline(20*time.Second))
	m := open(t, remote, options...)
	here := read(t, m, 100, 4096)
	ok(t, m.Close())
	ok(t, server.Close())

	m = open(t, remote, append(options, r3map.WithOffline())...)
	away, err := m.Next(background)
	ok(t, err)
	check(t, away.Kind == r3map.EventDisconnected && away.Cause != nil, "it is away: %v", away)
	same(t, read(t, m, 100, 4096), here)
	write(t, m, []byte("kept"), 4100)
	server = serve(t, address)
	ok(t, server.Export("m", openBackend(t, url)))
	back, err := m.Next(background)
	ok(t, err)
	check(t, back.Kind == r3map.EventRecovered, "it is back: %v", back)
	ok(t, m.Sync(background))
	stored, err := os.ReadFile(path)
	ok(t, err)
	same(t, stored[4100:4104], []byte("kept"))
	ok(t, m.Close())
	_, err = r3map.Open(background, remote, r3map.WithOffline())
	fails(t, err, r3map.ErrInvalidArgument, "offline: needs a cache in a file")
}
