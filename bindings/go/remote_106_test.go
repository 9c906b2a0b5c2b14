package r3map_test

import (
	"os"
	"strings"
	"testing"

	"r3map.dev/go/r3map"
)

func TestWhatOneProgramExportsAnotherOpensOverTCPAndAUNIXSocket(t *testing.T) {
	path, url := newFile(t, 200001)
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("state", openBackend(t, url)))
	local, err := server.Listen(background, "unix:"+socketPath(t))
	ok(t, err)
	check(t, strings.HasPrefix(server.URL(), "r3map://127.0.0.1:"), "it listens at %s", server.URL())

	written := fill(make([]byte, 200001), 3)
	remote := openBackend(t, server.URL()+"/state")
	write(t, remote, written, 0)
	ok(t, remote.Sync())
	ok(t, remote.Close())
	stored, err := os.ReadFile(path)
	ok(t, err)
	same(t, stored, written)
	same(t, read(t, openBackend(t, local+"?name=state"), len(written), 0), written)

	_, err = r3map.BackendFromURL(background, server.URL()+"/stat")
	fails(t, err, r3map.ErrNotFound, "stat")
	ok(t, server.Close())
	_, err = server.Listen(background, "127.0.0.1:0")
	fails(t, err, r3map.ErrClosed, "the server is closed")
}
