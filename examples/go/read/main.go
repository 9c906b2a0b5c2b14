// Command read writes a remote file to standard output: read r3map://host:7070/name
// Nothing but the library is needed for it: no device, no privilege.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"r3map.dev/go/r3map"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: read URL")
		os.Exit(2)
	}
	// Ctrl-C ends what waits.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := read(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "read:", err)
		os.Exit(1)
	}
}

func read(ctx context.Context, url string) error {
	m, err := r3map.Open(ctx, url)
	if err != nil {
		return err
	}
	if _, err := io.Copy(os.Stdout, io.NewSectionReader(m, 0, m.Size())); err != nil {
		m.Discard(ctx)
		return err
	}
	return m.CloseContext(ctx)
}
