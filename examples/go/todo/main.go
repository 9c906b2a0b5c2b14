// Command todo keeps a to-do list that moves to another process, or another host, while it is being edited.
//
//	todo seed FILE [TASKS]       starts a list in FILE and edits it; prints the URL that another may take it by
//	todo leech URL FILE TASKS    takes the list over into FILE, edits it on to TASKS tasks, and prints it
//
// The list is plain memory: a slice of the region. Whoever owns it edits it there, and nothing is sent by hand. What is no
// part of the region, here how often it was edited, goes with it as the payload.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"r3map.dev/go/r3map"
)

const (
	size = 1 << 20
	most = (size - 8) / taskSize
	// A task is its text, in 56 bytes, and whether it is done.
	taskSize = 64
	textSize = 56
)

// The region: how many tasks there are, then the tasks.
type list []byte

func (l list) count() uint64 { return binary.NativeEndian.Uint64(l) }

func (l list) task(i uint64) []byte { return l[8+i*taskSize:][:taskSize] }

// One edit: a new task, and an old one is done.
func (l list) edit(editor string) {
	i := l.count()
	clear(l.task(i))
	copy(l.task(i)[:textSize], fmt.Sprintf("task %d of %s", i, editor))
	l.task(i / 2)[textSize] = 1
	binary.NativeEndian.PutUint64(l, i+1)
}

func (l list) print() {
	for i := uint64(0); i < l.count(); i++ {
		mark := ' '
		if l.task(i)[textSize] == 1 {
			mark = 'x'
		}
		fmt.Printf("[%c] %s\n", mark, strings.TrimRight(string(l.task(i)[:textSize]), "\x00"))
	}
}

func main() {
	ctx, arguments, tasks := context.Background(), os.Args[1:], uint64(most)
	if len(arguments) > 2 {
		if asked, wrong := strconv.ParseUint(arguments[len(arguments)-1], 10, 64); wrong == nil {
			tasks = min(asked, most)
		}
	}
	var err error
	switch {
	case len(arguments) >= 2 && len(arguments) <= 3 && arguments[0] == "seed":
		err = seed(ctx, arguments[1], tasks)
	case len(arguments) == 4 && arguments[0] == "leech":
		err = leech(ctx, arguments[1], arguments[2], tasks)
	default:
		fmt.Fprintln(os.Stderr, "usage: todo seed FILE [TASKS] | todo leech URL FILE TASKS")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "todo:", err)
		os.Exit(1)
	}
}

// Edits until the leecher asks for the region, and returns once every byte is there.
func seed(ctx context.Context, path string, tasks uint64) error {
	m, err := r3map.Open(ctx, fmt.Sprintf("file://%s?size=%d", path, size))
	if err != nil {
		return err
	}
	memory, err := m.Slice(ctx)
	if err != nil {
		return err
	}
	seeder, err := m.Seed(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(seeder.URL())

	events, failed := make(chan r3map.SeedEvent), make(chan error, 1)
	go func() {
		for {
			event, err := seeder.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			events <- event
		}
	}()
	// While the list is ours it is edited, each millisecond.
	clock := time.NewTicker(time.Millisecond)
	defer clock.Stop()
	edits := clock.C
	for edited := 0; ; {
		select {
		case err := <-failed:
			return err
		case <-edits:
			if list(memory).count() < tasks {
				list(memory).edit("the seeder")
				edited++
			}
		case event := <-events:
			switch event.State {
			case r3map.SeedSuspending:
				edits = nil // from here on the list is not touched
				if err := seeder.Suspended(event, []byte(fmt.Sprintf("edited %d times", edited))); err != nil {
					return err
				}
			case r3map.SeedResumed:
				edits = clock.C
			case r3map.SeedDrained:
				if err := seeder.Close(); err != nil {
					return err
				}
				return m.Close()
			}
		}
	}
}

// Takes the list while it is being edited there, and goes on editing it here.
func leech(ctx context.Context, url, path string, tasks uint64) error {
	// The slice is made before the pause, not in it.
	l, err := r3map.Leech(ctx, url, "file://"+path, r3map.WithPrepare(r3map.ViewSlice))
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.WaitLocal(ctx, 0.9); err != nil { // the app there goes on
		return err
	}
	m, err := l.Finalize(ctx) // the pause
	if err != nil {
		return err
	}
	payload, err := m.Payload()
	if err != nil {
		return err
	}
	memory, err := m.Slice(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "todo: took %d tasks, %s there\n", list(memory).count(), payload)
	for list(memory).count() < tasks {
		list(memory).edit("the leecher")
	}
	list(memory).print()
	if err := m.WaitLocal(ctx, 1); err != nil { // from now on the other side is not needed
		return err
	}
	return m.Close()
}
