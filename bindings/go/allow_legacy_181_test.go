package r3map_test

import (
	"strings"
	"testing"

	"r3map.dev/go/r3map"
)

func TestARegionGoesByTheLegacyProtocolOnlyWhereBothSidesAllowIt(t *testing.T) {
	_, file := newFile(t, 500001)
	s := &source{mount: open(t, file), model: make([]byte, 500001)}
	s.seeder = seed(t, s.mount, r3map.WithAllowLegacy())
	s.run(t)
	<-s.writes
	address, _, _ := strings.Cut(strings.TrimPrefix(s.seeder.URL(), "r3map://"), "/")
	url := "grpc://" + address + "?size=500001&chunk=4KiB"
	_, err := r3map.Leech(patience(t), url, "memory:")
	fails(t, err, r3map.ErrUnsupported, "allow_legacy")
	m := finalize(t, leech(t, url, "memory:", r3map.WithAllowLegacy()))
	s.end(t)
	holds(t, m, s.model)
	ok(t, m.Close())
}
