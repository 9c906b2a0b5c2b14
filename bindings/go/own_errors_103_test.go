package r3map_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"r3map.dev/go/r3map"
)

func TestTheErrorOfABackendInGoArrivesAndARetryableOneIsTriedAgain(t *testing.T) {
	s := newStore(4096)
	m := mountStore(t, s)
	byte1 := make([]byte, 1)

	s.fail(&r3map.Error{Code: r3map.ErrCorrupt, Message: "out of order"}, -1)
	_, err := m.ReadAt(byte1, 0)
	fails(t, err, r3map.ErrCorrupt, "ours: read: out of order")
	_, err = m.WriteAt(byte1, 0)
	fails(t, err, r3map.ErrCorrupt, "ours: write: out of order")

	for _, other := range []struct {
		given error
		code  r3map.Code
	}{
		{r3map.ErrNotAuthenticated, r3map.ErrNotAuthenticated},
		{fs.ErrPermission, r3map.ErrPermissionDenied},
		{&os.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}, r3map.ErrNotFound},
		{errors.New("of no known kind\x00\xff"), r3map.ErrIO},
	} {
		s.fail(other.given, -1)
		_, err = m.ReadAt(byte1, 0)
		fails(t, err, other.code, "ours: read")
	}

	s.fail(r3map.ErrDisconnected, 2)
	s.reads = 0
	read(t, m, 1, 0)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	check(t, s.reads == 3, "%d reads", s.reads)
}
