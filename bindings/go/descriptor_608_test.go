package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestARegionMovesOverAConnectionThatTheAppBrings(t *testing.T) {
	_, url := newFile(t, 700001)
	s := &source{mount: open(t, url), model: fill(make([]byte, 700001), 3)}
	write(t, s.mount, s.model, 0)
	server := serve(t, "")
	var err error
	s.seeder, err = server.Seed("state", s.mount)
	ok(t, err)
	check(t, s.seeder.URL() == "", "it is at %s", s.seeder.URL())
	s.run(t)

	_, err = r3map.LeechConn(background, nil, "state", "memory:")
	fails(t, err, r3map.ErrUnsupported, "no descriptor")
	one, other := connected(t, "unix", socketPath(t))
	ok(t, server.Handle(one))
	_, err = r3map.LeechConn(background, other, "other", "memory:")
	fails(t, err, r3map.ErrNotFound, "other")
	ok(t, other.Close())

	one, other = connected(t, "tcp", "127.0.0.1:0")
	ok(t, server.Handle(one))
	l, err := r3map.LeechConn(patience(t), other, "state", "memory:")
	ok(t, err)
	m, err := l.FinalizeWhen(patience(t), "95%")
	ok(t, err)
	s.end(t)
	holds(t, m, s.model)
	ok(t, l.Close())
	ok(t, m.Close())
	ok(t, server.Close())
}
