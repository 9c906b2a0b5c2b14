package r3map_test

import (
	"net"
	"testing"

	"r3map.dev/go/r3map"
)

// Both ends of a connection.
func connected(t *testing.T, network, address string) (one, other net.Conn) {
	t.Helper()
	listener, err := net.Listen(network, address)
	ok(t, err)
	defer listener.Close()
	one, err = net.Dial(network, listener.Addr().String())
	ok(t, err)
	other, err = listener.Accept()
	ok(t, err)
	return one, other
}

func TestAConnectedSocketServesAtOneEndAndIsABackendAtTheOther(t *testing.T) {
	exported := openBackend(t, "memory:?size=8MiB")
	server := serve(t, "")
	ok(t, server.Export("m", exported))
	for _, kind := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", socketPath(t)}} {
		one, other := connected(t, kind[0], kind[1])
		ok(t, server.Handle(one))
		_, err := one.Write([]byte("x"))
		check(t, err != nil, "the connection is still the caller's")
		b, err := r3map.BackendFromConn(background, other, "m")
		ok(t, err)
		// So much that pieces of it arrive: a connection of Go's does not block.
		for round := 0; round < 4; round++ {
			written := fill(make([]byte, 8<<20), round)
			write(t, b, written, 0)
			same(t, read(t, exported, len(written), 0), written)
			same(t, read(t, b, len(written), 0), written)
		}
		ok(t, b.Close())

		// On failure the connection stays the caller's.
		one, other = connected(t, kind[0], kind[1])
		ok(t, server.Handle(one))
		_, err = r3map.BackendFromConn(background, other, "other")
		fails(t, err, r3map.ErrNotFound, "other")
		ok(t, other.Close())
		_, err = r3map.BackendFromConn(background, other, "m")
		fails(t, err, r3map.ErrClosed, "the connection")
	}
	piped, _ := net.Pipe()
	fails(t, server.Handle(piped), r3map.ErrUnsupported, "TCP and UNIX sockets")
	fails(t, server.Handle(nil), r3map.ErrUnsupported, "no descriptor")
}
