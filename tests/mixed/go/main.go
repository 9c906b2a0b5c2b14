// Command next takes the region that is seeded at URL over into LOCAL, writes to it, and gives it away while it goes on
// writing. What it writes is in the test that starts it.
//
//	next STRIDE URL LOCAL
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"r3map.dev/go/r3map"
)

const patience = time.Minute

type app struct {
	mount        *r3map.Mount
	stride, step int64
}

func (a *app) write() error {
	record := fmt.Sprintf("%-6s %030d", "Go", a.step)
	_, err := a.mount.WriteAt([]byte(record), a.step*a.stride%(a.mount.Size()-int64(len(record))))
	a.step++
	return err
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "next:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	stride, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		return err
	}
	a := &app{stride: stride}
	if a.mount, err = take(ctx, os.Args[2], os.Args[3]); err != nil {
		return err
	}
	for a.step < 500 {
		if err := a.write(); err != nil {
			return err
		}
	}
	seeder, err := a.mount.Seed(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(seeder.URL())
	if err := a.give(ctx, seeder); err != nil {
		return err
	}
	if err := seeder.Close(); err != nil {
		return err
	}
	return a.mount.Close()
}

func take(ctx context.Context, url, local string) (*r3map.Mount, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	leecher, err := r3map.Leech(ctx, url, local)
	if err != nil {
		return nil, err
	}
	defer leecher.Close()
	mount, err := leecher.FinalizeWhen(ctx, "90%")
	if err != nil {
		return nil, err
	}
	return mount, mount.WaitLocal(ctx, 1)
}

// Writes until the leecher asks for the region, and returns once it has every byte.
func (a *app) give(ctx context.Context, seeder *r3map.Seeder) error {
	for state := r3map.SeedWaiting; state != r3map.SeedDrained; {
		// While the region is ours it is written, each time that nothing happened for a millisecond.
		isOurs, wait := state == r3map.SeedWaiting || state == r3map.SeedTracking, patience
		if isOurs {
			wait = time.Millisecond
		}
		short, cancel := context.WithTimeout(ctx, wait)
		event, err := seeder.Next(short)
		cancel()
		if isOurs && errors.Is(err, context.DeadlineExceeded) {
			if err := a.write(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if state = event.State; state == r3map.SeedSuspending {
			payload, err := a.mount.Payload()
			if err != nil {
				return err
			}
			if err := seeder.Suspended(event, fmt.Appendf(payload, "Go %d\n", a.step)); err != nil {
				return err
			}
		}
	}
	return nil
}
