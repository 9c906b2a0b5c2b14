// Command counter adds one to a counter that lives elsewhere and is used here as memory: counter r3map://host:7070/name
// One after another, any number of hosts may do so.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"r3map.dev/go/r3map"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: counter URL")
		os.Exit(2)
	}
	value, err := count(context.Background(), os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(1)
	}
	fmt.Println(value)
}

func count(ctx context.Context, url string) (uint64, error) {
	m, err := r3map.Open(ctx, url)
	if err != nil {
		return 0, err
	}
	// Nobody else closes it. After a close this does nothing.
	defer m.Discard(ctx)
	memory, err := m.Slice(ctx)
	if err != nil {
		return 0, err
	}
	if len(memory) < 8 {
		return 0, fmt.Errorf("%d bytes are too few", len(memory))
	}
	// An error here instead of a fault there.
	if err := m.Pull(ctx, 0, 8); err != nil {
		return 0, err
	}
	value := binary.NativeEndian.Uint64(memory) + 1
	binary.NativeEndian.PutUint64(memory, value)
	// The new value is durable where it lives.
	return value, m.Close()
}
