package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestAnExportIsReadOnlyIfToldSoAndTakesANameOnce(t *testing.T) {
	b := openBackend(t, "memory:?size=4096")
	server := serve(t, "")
	ok(t, server.Export("fixed", b, r3map.WithReadOnly()))
	fails(t, server.Export("fixed", b), r3map.ErrBusy, `"fixed"`)
	fails(t, server.Export("", b), r3map.ErrInvalidArgument, "name")
	fails(t, server.Export("x", b, nil), r3map.ErrInvalidArgument, "an option is nil")
	_, err := r3map.BackendFromURL(background, "r3map://192.0.2.1/x")
	fails(t, err, r3map.ErrPermissionDenied, "insecure")
	_, err = server.Listen(background, "127.0.0.1:0")
	ok(t, err)

	remote := openBackend(t, server.URL()+"/fixed")
	readOnly, err := remote.ReadOnly()
	ok(t, err)
	check(t, readOnly, "it is not read-only")
	_, err = remote.WriteAt([]byte("x"), 0)
	fails(t, err, r3map.ErrReadOnly, "read-only")

	_, err = r3map.Serve("", r3map.WithMaxConnections(0))
	fails(t, err, r3map.ErrInvalidArgument, "max_connections: 0")
	_, err = r3map.Serve("", r3map.WithMaxConnections(-1))
	fails(t, err, r3map.ErrInvalidArgument, "max_connections: -1")
	_, err = r3map.Serve("", nil)
	fails(t, err, r3map.ErrInvalidArgument, "an option is nil")
}
