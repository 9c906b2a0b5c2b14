package r3map_test

import (
	"testing"

	"r3map.dev/go/r3map"
)

func TestAPriorityFunctionIsAskedForEveryPartOnceAndInOrder(t *testing.T) {
	for _, size := range []struct {
		url          string
		calls, parts int64
	}{
		{"memory:?size=10000001", 10, 1 << 20},
		{"memory:?size=1", 1, 1 << 20},
		{"memory:?size=1TiB", 4096, 256 << 20},
	} {
		var asked []int64
		m := open(t, size.url, r3map.WithPullPriority(func(offset int64) int32 {
			asked = append(asked, offset)
			return int32(offset >> 20 % 3)
		}))
		ok(t, m.Close())
		check(t, int64(len(asked)) == size.calls, "%s: %d calls", size.url, len(asked))
		for i, offset := range asked {
			check(t, offset == int64(i)*size.parts, "%s: call %d was for %d", size.url, i, offset)
		}
	}
}

func TestWhatAPriorityFunctionPrefersIsPulledFirst(t *testing.T) {
	s := newStore(8 << 20)
	r := &recorder{store: s}
	m, err := r3map.OpenBackend(background, r, r3map.WithMode(r3map.ModeManaged), r3map.WithMaxInFlight(64<<10),
		r3map.WithPullPriority(func(offset int64) int32 {
			if offset == 5<<20 {
				return 1
			}
			return 0
		}))
	ok(t, err)
	ok(t, m.WaitLocal(background, 1))
	ok(t, m.Close())
	s.mutex.Lock()
	defer s.mutex.Unlock()
	check(t, r.first == 5<<20, "the first read was at %d", r.first)
}

// A store that remembers where the first read was.
type recorder struct {
	*store
	first int64
	any   bool
}

func (r *recorder) ReadAt(p []byte, offset int64) (int, error) {
	r.mutex.Lock()
	if !r.any {
		r.first, r.any = offset, true
	}
	r.mutex.Unlock()
	return r.store.ReadAt(p, offset)
}
