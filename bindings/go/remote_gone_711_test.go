package r3map_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"r3map.dev/go/r3map"
)

func init() {
	children["server"] = func() {
		b, err := r3map.BackendFromURL(background, "memory:?size=1MiB")
		must(err)
		server, err := r3map.Serve("127.0.0.1:0")
		must(err)
		must(server.Export("m", b))
		fmt.Println(server.URL() + "/m")
		select {}
	}
}

// Starts a server in a process of its own; gives the URL of its export and what kills it.
func startServer(t *testing.T) (url string, kill func()) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "R3MAP_TEST_CHILD=server")
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	ok(t, err)
	ok(t, command.Start())
	kill = func() {
		command.Process.Kill()
		command.Wait()
	}
	t.Cleanup(kill)
	url, err = bufio.NewReader(output).ReadString('\n')
	ok(t, err)
	return strings.TrimSpace(url), kill
}

func TestOnceTheServerIsGoneCallsEndWithDisconnectedAsOftenAsTheyAreMade(t *testing.T) {
	url, kill := startServer(t)
	m := open(t, url, r3map.WithDeadline(300*time.Millisecond))
	write(t, m, []byte("here"), 4096)
	ok(t, m.Sync(background))
	kill()

	_, err := m.WriteAt([]byte("lost"), 4096)
	if err == nil {
		err = m.Sync(background)
	}
	fails(t, err, r3map.ErrDisconnected, "127.0.0.1")
	fails(t, m.Sync(background), r3map.ErrDisconnected, "127.0.0.1")
	fails(t, m.Close(), r3map.ErrDisconnected, "the mount stays open")
	ok(t, m.Discard(background))
	_, err = r3map.Open(background, url)
	fails(t, err, r3map.ErrDisconnected, "127.0.0.1")
}
