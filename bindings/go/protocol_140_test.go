package r3map_test

import (
	"errors"
	"strings"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAServerSpeaksNBDOrGRPCWhereToldSo(t *testing.T) {
	for protocol, rest := range map[string]string{"nbd": "/region", "grpc": "?size=4096"} {
		exported := openBackend(t, "memory:?size=4096")
		server := serve(t, "127.0.0.1:0", r3map.WithProtocol(protocol))
		ok(t, server.Export("region", exported))
		check(t, strings.HasPrefix(server.URL(), protocol+"://"), "the server is at %s", server.URL())
		remote := openBackend(t, server.URL()+rest)
		write(t, remote, []byte("hello"), 4000)
		ok(t, remote.Sync())
		same(t, read(t, exported, 5, 4000), []byte("hello"))
		ok(t, remote.Close())
		ok(t, server.Close())
	}
	_, err := r3map.Serve("", r3map.WithProtocol("ndb"))
	check(t, errors.Is(err, r3map.ErrInvalidArgument), "a protocol that is none: %v", err)
}
