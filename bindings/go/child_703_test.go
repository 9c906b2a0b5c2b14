package r3map_test

import (
	"os/exec"
	"strings"
	"testing"
)

func TestAChildProcessInheritsNothingAndTheParentGoesOn(t *testing.T) {
	m := open(t, "memory:?size=4096")
	exported, err := m.Backend()
	ok(t, err)
	defer exported.Close()
	server := serve(t, "127.0.0.1:0")
	ok(t, server.Export("m", exported))
	remote := open(t, server.URL()+"/m")
	read(t, remote, 1, 0)
	if _, err := remote.Slice(background); err != nil {
		t.Logf("without a slice: %v", err)
	}
	found, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	ok(t, err)
	for _, ours := range []string{"socket:", "memfd", "userfaultfd", "eventfd", "fuse", "nbd"} {
		check(t, !strings.Contains(string(found), ours), "a child has:\n%s", found)
	}
	write(t, m, []byte("p"), 0)
	same(t, read(t, openBackend(t, server.URL()+"/m"), 1, 0), []byte("p"))
}
