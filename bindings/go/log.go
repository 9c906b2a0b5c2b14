package r3map

// #include <r3map.h>
import "C"

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// LevelTrace is the level of what the library says of every step, below [slog.LevelDebug].
const LevelTrace = slog.LevelDebug - 4

var levels = []struct {
	slog slog.Level
	c    C.uint32_t
	name string
}{
	{slog.LevelError, C.R3MAP_LOG_ERROR, "ERROR"},
	{slog.LevelWarn, C.R3MAP_LOG_WARN, "WARN"},
	{slog.LevelInfo, C.R3MAP_LOG_INFO, "INFO"},
	{slog.LevelDebug, C.R3MAP_LOG_DEBUG, "DEBUG"},
	{LevelTrace, C.R3MAP_LOG_TRACE, "TRACE"},
}

// The goroutine that hands lines on, by the channel that it closes at its end.
var logging struct {
	sync.Mutex
	done chan struct{}
}

// LogTo hands the library's log, of the whole process, to a logger from now on: what is of that level or above. A nil
// logger ends it, once every line has been handed on. Without a call the library says nothing.
//
// The library never waits for the logger: of lines that come faster than it takes them some are dropped, and a later
// one counts them. The part of the library that speaks is the attribute "target".
func LogTo(logger *slog.Logger, level slog.Level) error {
	logging.Lock()
	defer logging.Unlock()
	if logger == nil {
		err := take(C.r3map_log_to(-1, C.R3MAP_LOG_OFF))
		if logging.done != nil {
			<-logging.done
			logging.done = nil
		}
		return err
	}
	most := levels[0].c
	for _, known := range levels {
		if known.slog >= level {
			most = known.c
		}
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return newError(ErrIO, "a pipe for the log: %v", err)
	}
	// The library has a descriptor of its own by then.
	defer writer.Close()
	raw, err := writer.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(descriptor uintptr) { failed = take(C.r3map_log_to(C.int(descriptor), most)) })
		if err == nil {
			err = failed
		}
	}
	if err != nil {
		reader.Close()
		return err
	}
	// What went before has no writer any more and ends by itself.
	before := logging.done
	done := make(chan struct{})
	logging.done = done
	go func() {
		defer close(done)
		defer reader.Close()
		if before != nil {
			<-before
		}
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			hand(logger, lines.Text())
		}
	}()
	return nil
}

// Hands on a line: LEVEL target: message key=value.
func hand(logger *slog.Logger, line string) {
	level, rest, _ := strings.Cut(line, " ")
	target, message, found := strings.Cut(rest, ": ")
	if !found {
		target, message = "", rest
	}
	at := slog.LevelInfo
	for _, known := range levels {
		if known.name == level {
			at = known.slog
		}
	}
	logger.LogAttrs(context.Background(), at, message, slog.String("target", target))
}
