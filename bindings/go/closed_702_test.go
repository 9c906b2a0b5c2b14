package r3map_test

import (
	"errors"
	"io/fs"
	"sync"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAClosedHandleAnswersEveryCallWithClosed(t *testing.T) {
	m := open(t, "memory:?size=4096")
	b, err := m.Backend()
	ok(t, err)
	server := serve(t, "127.0.0.1:0")
	ok(t, m.Close())
	check(t, m.Size() == 4096, "size %d", m.Size())
	allFail(t, callsOf(m, background), r3map.ErrClosed, "the mount is closed")
	check(t, errors.Is(m.Close(), fs.ErrClosed), "it is not fs.ErrClosed")
	ok(t, b.Close())
	allFail(t, callsOfBackend(b, background), r3map.ErrClosed, "the backend is closed")
	_, err = r3map.OpenBackend(background, b)
	fails(t, err, r3map.ErrClosed, "the backend is closed")
	ok(t, server.Close())
	allFail(t, callsOfServer(server, background), r3map.ErrClosed, "the server is closed")
}

func TestACloseWhileOthersCallEndsThemWithClosedOrABytesAnswer(t *testing.T) {
	for round := 0; round < 100; round++ {
		m := open(t, "memory:?size=4096")
		b, err := m.Backend()
		ok(t, err)
		var group sync.WaitGroup
		for caller := 0; caller < 4; caller++ {
			group.Add(1)
			go func() {
				defer group.Done()
				for {
					_, err := m.ReadAt(make([]byte, 100), 0)
					if _, other := b.Size(); err == nil {
						err = other
					}
					if errors.Is(err, r3map.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		ok(t, m.Close())
		ok(t, b.Close())
		group.Wait()
	}
}

func TestACloseEndsThoseWhoWaitForBytesThatNeverCome(t *testing.T) {
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("m", openBackend(t, "memory:?size=1MiB")))
	m := open(t, server.URL()+"/m", r3map.WithPull(r3map.PullDemand))
	waiting, ended := make(chan struct{}), make(chan error)
	go func() {
		close(waiting)
		ended <- m.WaitLocal(background, 1)
	}()
	<-waiting
	ok(t, m.Close())
	fails(t, <-ended, r3map.ErrClosed, "closed")
}
