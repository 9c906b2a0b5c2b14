package r3map_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

// A page fault stops the thread that runs Go code where the collector cannot reach it. Were anything that serves the fault
// in need of Go, the process would stand still for ever: that is the deadlock of other libraries that map in Go.

const (
	collectedSize = 64 << 20
	collectedPart = 16
)

func init() {
	children["slice"] = faultWhileCollecting
	children["own"] = readOwnWhileCollecting
}

// How long the collector runs against faults: R3MAP_GC_SECONDS, for minutes of it.
func collecting() time.Duration {
	seconds, err := strconv.Atoi(os.Getenv("R3MAP_GC_SECONDS"))
	if err != nil {
		seconds = 3
	}
	return time.Duration(seconds) * time.Second
}

func TestFaultsOfASliceNeverHangWhileTheGarbageCollectorRunsFlatOut(t *testing.T) {
	url := collected(t)
	m := open(t, url)
	_, err := m.Slice(background)
	okOrSkip(t, err)
	ok(t, m.Close())
	for _, processors := range []string{"1", "2"} {
		neverHangs(t, "slice", processors, url, "auto")
	}
}

func TestFaultsOfAnNBDSliceNeverHangWhileTheGarbageCollectorRunsFlatOut(t *testing.T) {
	url := collected(t)
	m := open(t, url, r3map.WithDevice("nbd"))
	_, err := m.Slice(background)
	if err != nil && os.Getenv("R3MAP_IN_GUEST") == "" {
		t.Skipf("LEFT TO THE GUEST: %v", err)
	}
	ok(t, err)
	ok(t, m.Close())
	for _, processors := range []string{"1", "2"} {
		neverHangs(t, "slice", processors, url, "nbd")
	}
}

// What another process serves: the one that watches.
func collected(t *testing.T) (url string) {
	t.Helper()
	server := serve(t, "")
	address, err := server.Listen(background, "unix:"+socketPath(t))
	ok(t, err)
	b := openBackend(t, fmt.Sprintf("memory:?size=%d", collectedSize))
	write(t, b, fill(make([]byte, collectedSize), 0), 0)
	ok(t, server.Export("m", b))
	return address + "?name=m"
}

func TestCallsOverABackendInGoNeverHangWhileTheGarbageCollectorRunsFlatOut(t *testing.T) {
	for _, processors := range []string{"1", "2"} {
		neverHangs(t, "own", processors, "", "fuse")
	}
}

// Runs a child with the collector at its busiest. A child that stands still cannot know: it is ended from here.
func neverHangs(t *testing.T, child, processors, url, device string) {
	t.Helper()
	limit, cancel := context.WithTimeout(background, collecting()+2*time.Minute)
	defer cancel()
	command := exec.CommandContext(limit, os.Args[0])
	command.Env = append(os.Environ(), "R3MAP_TEST_CHILD="+child, "R3MAP_TEST_URL="+url, "R3MAP_TEST_DEVICE="+device,
		"GOGC=1", "GOMAXPROCS="+processors)
	said, err := command.CombinedOutput()
	check(t, limit.Err() == nil, "with %s processors it stands still:\n%s", processors, said)
	check(t, err == nil, "with %s processors: %v:\n%s", processors, err, said)
	t.Logf("with %s processors: %s", processors, bytes.TrimSpace(said))
}

// Makes garbage and collects it until told to stop.
func collect(stop *atomic.Bool) {
	var kept [64][]*[512]byte
	for i := 0; !stop.Load(); i++ {
		part := make([]*[512]byte, 64)
		for j := range part {
			part[j] = new([512]byte)
		}
		kept[i%len(kept)] = part
		if i%64 == 0 {
			runtime.GC()
		}
	}
}

// Ends a child with what went wrong.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func faultWhileCollecting() {
	expected := fill(make([]byte, collectedSize), 0)
	var stop atomic.Bool
	go collect(&stop)
	mounts, faults := 0, 0
	for end := time.Now().Add(collecting()); time.Now().Before(end); mounts++ {
		// Every page faults, and a mount anew makes them fault again.
		m, err := r3map.Open(background, os.Getenv("R3MAP_TEST_URL"), r3map.WithPull(r3map.PullDemand),
			r3map.WithDevice(os.Getenv("R3MAP_TEST_DEVICE")))
		must(err)
		slice, err := m.Slice(background)
		must(err)
		var group sync.WaitGroup
		var touched atomic.Int64
		for toucher := 0; toucher < 4; toucher++ {
			group.Add(1)
			go func() {
				defer group.Done()
				touched.Add(int64(touch(slice, expected, toucher, mounts, end)))
			}()
		}
		group.Wait()
		faults += int(touched.Load())
		must(m.Close())
	}
	stop.Store(true)
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	fmt.Printf("%d touches of %d mounts, %d collections\n", faults, mounts, memory.NumGC)
	if faults == 0 || memory.NumGC < 10 {
		must(errors.New("that is no test"))
	}
}

// Touches pages by an index, by copy, which the runtime cannot interrupt, and by stores, until the time is over.
func touch(slice, expected []byte, toucher, seed int, end time.Time) (touched int) {
	const pages = collectedSize / 4096 / collectedPart
	garbage := make([]byte, 4096)
	for i := 0; i < pages && (i < 8 || time.Now().Before(end)); i++ {
		// Of each group of pages a quarter is this one's.
		page := (i*7 + seed) % pages * collectedPart
		at := (page + toucher*collectedPart/4) * 4096
		switch i % 3 {
		case 0:
			if slice[at+5] != expected[at+5] {
				must(fmt.Errorf("a wrong byte at %d", at+5))
			}
		case 1:
			garbage = append([]byte(nil), garbage...)
			if copy(garbage, slice[at:]); !bytes.Equal(garbage, expected[at:at+4096]) {
				must(fmt.Errorf("wrong bytes at %d", at))
			}
		case 2:
			slice[at+9] = expected[at+9]
		}
		touched++
	}
	return touched
}

// A backend whose methods make garbage themselves.
type wasteful struct{ bytes []byte }

func (w wasteful) Size() (int64, error) { return int64(len(w.bytes)), nil }
func (w wasteful) Sync() error          { return nil }

func (w wasteful) ReadAt(p []byte, offset int64) (int, error) {
	return copy(p, append([]byte(nil), w.bytes[offset:offset+int64(len(p))]...)), nil
}

func (w wasteful) WriteAt(p []byte, offset int64) (int, error) {
	return copy(w.bytes[offset:], append([]byte(nil), p...)), nil
}

func readOwnWhileCollecting() {
	const size = 4 << 20
	w := wasteful{fill(make([]byte, size), 0)}
	var stop atomic.Bool
	go collect(&stop)
	m, err := r3map.OpenBackend(background, w, r3map.WithDevice(os.Getenv("R3MAP_TEST_DEVICE")))
	must(err)
	readers := []io.ReaderAt{m, m}
	// A file is served by this process too, where it has one.
	if file, err := m.File(background); err == nil {
		readers = append(readers, file)
		defer file.Close()
	}
	var group sync.WaitGroup
	var calls atomic.Int64
	end := time.Now().Add(collecting())
	for _, from := range readers {
		group.Add(1)
		go func() {
			defer group.Done()
			found := make([]byte, 70000)
			for offset := int64(0); time.Now().Before(end); offset = (offset + 70001) % (size - 70000) {
				_, err := from.ReadAt(found, offset)
				must(err)
				if !bytes.Equal(found, w.bytes[offset:offset+70000]) {
					must(fmt.Errorf("wrong bytes at %d", offset))
				}
				calls.Add(1)
			}
		}()
	}
	group.Wait()
	stop.Store(true)
	must(m.Discard(background))
	fmt.Printf("%d calls of %d readers\n", calls.Load(), len(readers))
}
