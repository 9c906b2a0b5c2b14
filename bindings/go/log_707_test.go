package r3map_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"r3map.dev/go/r3map"
)

// A write that fails is an error in the log.
func loseAWrite(t *testing.T) {
	s := newStore(4096)
	s.fail(errOutOfOrder, -1)
	m := mountStore(t, s)
	_, err := m.WriteAt([]byte("x"), 0)
	fails(t, err, r3map.ErrIO, "")
	ok(t, m.Discard(background))
}

func TestTheLogIsOffUntilThereIsALoggerAndEndsWhenTold(t *testing.T) {
	var text bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: r3map.LevelTrace}))
	loseAWrite(t)
	ok(t, r3map.LogTo(logger, slog.LevelError))
	loseAWrite(t)
	ok(t, r3map.LogTo(nil, 0))
	loseAWrite(t)
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	check(t, len(lines) == 1 && strings.Contains(lines[0], "level=ERROR"), "logged:\n%s", text.String())
	for _, part := range []string{"a write did not reach the backend", "ours: write: out of order", "target=r3map::"} {
		check(t, strings.Contains(lines[0], part), "%q lacks %q", lines[0], part)
	}

	// Another logger takes over, and less is said or more by level.
	var second bytes.Buffer
	ok(t, r3map.LogTo(logger, slog.LevelError))
	ok(t, r3map.LogTo(slog.New(slog.NewTextHandler(&second, nil)), slog.LevelInfo))
	loseAWrite(t)
	ok(t, r3map.LogTo(nil, 0))
	check(t, strings.Contains(second.String(), "level=ERROR"), "logged:\n%s", second.String())
	check(t, strings.Count(text.String(), "\n") == 1, "the first logger had besides:\n%s", text.String())
	ok(t, r3map.LogTo(nil, 0))
}
