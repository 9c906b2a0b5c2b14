// Command bench measures what a call from Go costs beside the same call from C, in turn and in one process.
package main

/*
#cgo pkg-config: r3map
#include <r3map.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void check(r3map_error *error)
{
    if (error == NULL)
        return;
    fprintf(stderr, "bench: %s\n", r3map_error_message(error));
    exit(1);
}

static r3map_mount *open_mount(const char *url)
{
    r3map_backend *backend;
    r3map_mount *mount;
    check(r3map_backend_open(url, NULL, NULL, &backend));
    check(r3map_mount_open(backend, NULL, NULL, &mount));
    r3map_backend_free(backend);
    return mount;
}

// Nanoseconds that so many calls take.
static long long calls(r3map_mount *mount, int count)
{
    static char buffer[4096];
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < count; i++)
        check(r3map_mount_read_at(mount, buffer, sizeof buffer, 0, NULL));
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - start.tv_sec) * 1000000000ll + (end.tv_nsec - start.tv_nsec);
}
*/
import "C"

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"r3map.dev/go/r3map"
)

const (
	url    = "memory:?size=1MiB"
	rounds = 41
	count  = 50_000
)

func main() {
	fromC := C.open_mount(C.CString(url))
	fromGo, err := r3map.Open(context.Background(), url)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	buffer := make([]byte, 4096)
	if _, err := fromGo.WriteAt(buffer, 0); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	var inC, inGo []float64
	for round := 0; round <= rounds; round++ {
		c := float64(C.calls(fromC, count)) / count
		start := time.Now()
		for i := 0; i < count; i++ {
			if _, err := fromGo.ReadAt(buffer, 0); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
		}
		// The first round warms up.
		if round > 0 {
			inC, inGo = append(inC, c), append(inGo, float64(time.Since(start).Nanoseconds())/count)
		}
	}
	c, g := median(inC), median(inGo)
	goal, verdict := max(1.5*c, c+150), "met    "
	if g > goal {
		verdict = "NOT MET"
	}
	fmt.Printf("%-46s %9s %9.2f %s (%.1f against %.1f ns; at most %.1f)\n",
		"read_at: 4 KiB resident from Go / from C", fmt.Sprintf("<= %.2f", goal/c), g/c, verdict, g, c, goal)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
