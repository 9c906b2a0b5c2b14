package r3map_test

import (
	"bytes"
	"testing"

	"r3map.dev/go/r3map"
)

func TestBytesTravelPackedWhereThatIsAskedFor(t *testing.T) {
	const size = 1 << 20
	region := make([]byte, size)
	for i := range region {
		region[i] = byte(i % 251)
	}
	server := serve(t, "127.0.0.1:0", r3map.WithCompression("auto"))
	memory := openBackend(t, "memory:?size=1MiB")
	_, err := memory.WriteAt(region, 0)
	ok(t, err)
	ok(t, server.Export("region", memory))
	url := server.URL() + "/region"

	// How many bytes came when all of the region was read.
	received := func(options ...r3map.MountOption) uint64 {
		t.Helper()
		m := open(t, url, options...)
		check(t, bytes.Equal(read(t, m, size, 0), region), "it reads other bytes")
		stats, err := m.Stats()
		ok(t, err)
		ok(t, m.Close())
		return stats["received_bytes"]
	}
	for _, how := range []string{"lz4", "zstd"} {
		came := received(r3map.WithCompression(how))
		check(t, came > 0 && came < size/2, "%s: %d bytes came", how, came)
	}
	check(t, received(r3map.WithCompression("off")) >= size, "it is packed where compression is off")
	check(t, received() >= size, "it is packed within a host")

	_, err = r3map.BackendFromURL(background, url, r3map.WithCompression("lz5"))
	fails(t, err, r3map.ErrInvalidArgument, `compression: unknown value "lz5"`)
	_, err = r3map.Serve("", r3map.WithCompression("fast"))
	fails(t, err, r3map.ErrInvalidArgument, `compression: unknown value "fast"`)
}
