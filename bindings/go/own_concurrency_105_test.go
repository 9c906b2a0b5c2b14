package r3map_test

import (
	"sync"
	"testing"
	"time"
)

func TestNoMoreCallsOfABackendAreUnderWayAtOnceThanItAllows(t *testing.T) {
	for _, allowed := range []int{1, 3} {
		s := newStore(1 << 20)
		s.said.Concurrency, s.delay = allowed, time.Millisecond
		m := mountStore(t, s)
		var group sync.WaitGroup
		for reader := 0; reader < 8; reader++ {
			group.Add(1)
			go func() {
				defer group.Done()
				for i := int64(0); i < 20; i++ {
					if _, err := m.ReadAt(make([]byte, 64), i*64); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		group.Wait()
		s.mutex.Lock()
		check(t, s.reads == 160 && s.most <= allowed, "%d reads, %d at once", s.reads, s.most)
		s.mutex.Unlock()
	}
}
