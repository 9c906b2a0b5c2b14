package r3map_test

import (
	"bytes"
	"sync"
	"testing"
)

func TestOneMountIsUsedByManyGoroutinesAtOnceEachOnAPartOfItsOwn(t *testing.T) {
	const part = 100003
	m := open(t, "memory:?size=1MiB")
	var group sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			written, found := make([]byte, part), make([]byte, part)
			for round := 0; round < 20; round++ {
				fill(written, worker+round)
				_, err := m.WriteAt(written, int64(worker)*part)
				if err == nil {
					_, err = m.ReadAt(found, int64(worker)*part)
				}
				if err != nil || !bytes.Equal(found, written) {
					t.Errorf("worker %d, round %d: %v", worker, round, err)
					return
				}
			}
		}()
	}
	group.Wait()
	ok(t, m.Close())
}
