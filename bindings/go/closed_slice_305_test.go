package r3map_test

import (
	"errors"
	"runtime"
	"runtime/debug"
	"testing"

	"r3map.dev/go/r3map"
)

// What a touch of memory ends with: a fault, as an error.
func touching(touch func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault, is := recover().(runtime.Error); is {
			err = fault
		}
	}()
	touch()
	return nil
}

func TestASliceFaultsAfterCloseAndItsAddressesAreNeverUsedAgain(t *testing.T) {
	var old [][]byte
	for round := 0; round < 20; round++ {
		m := open(t, "memory:?size=1MiB")
		slice, err := m.Slice(background)
		okOrSkip(t, err)
		slice[70000] = 1
		ok(t, m.Close())
		old = append(old, slice)
		for _, slice := range old {
			err := touching(func() { slice[70000]++ })
			var fault interface{ Addr() uintptr }
			check(t, errors.As(err, &fault), "a touch after close gave %v", err)
		}
	}
}

func TestAStoreToAReadOnlySliceIsAFaultAndALoadIsNot(t *testing.T) {
	m := open(t, "memory:?size=1MiB", r3map.WithReadOnly())
	slice, err := m.Slice(background)
	okOrSkip(t, err)
	check(t, slice[5] == 0, "%d", slice[5])
	check(t, touching(func() { slice[5] = 1 }) != nil, "a store went through")
	check(t, slice[5] == 0, "%d", slice[5])
	ok(t, m.Close())
}

func TestAPageThatCannotBeHadIsAFaultInTheGoroutineThatTouchesIt(t *testing.T) {
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("m", openBackend(t, "memory:?size=8MiB")))
	m := open(t, server.URL()+"/m", r3map.WithPull(r3map.PullDemand), r3map.WithDeadline(200_000_000))
	slice, err := m.Slice(background)
	okOrSkip(t, err)
	check(t, slice[0] == 0, "%d", slice[0])
	ok(t, server.Close())
	check(t, touching(func() { slice[5<<20]++ }) != nil, "bytes from nowhere")
	check(t, m.Pull(background, 5<<20, 1) != nil, "a pull from nowhere")
	ok(t, m.Discard(background))
}
