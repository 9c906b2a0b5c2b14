package r3map_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The folder with the examples as programs: built beside the tests by tests/go/run, else now.
func examples(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(filepath.Dir(os.Args[0]), "examples")
	if _, err := os.Stat(filepath.Join(folder, "read")); err == nil {
		return folder
	}
	folder = t.TempDir() + "/"
	build := exec.Command("go", "build", "-o", folder, "./...")
	build.Dir = filepath.Join("..", "..", "examples", "go")
	said, err := build.CombinedOutput()
	check(t, err == nil, "the examples do not build: %v:\n%s", err, said)
	return folder
}

func TestTheExamplesDoWhatTheySayUsedTogether(t *testing.T) {
	folder := examples(t)
	path := filepath.Join(t.TempDir(), "file")
	content := make([]byte, 3000001)
	rand.New(rand.NewSource(1)).Read(content)
	ok(t, os.WriteFile(path, content, 0o600))
	server := exec.Command(filepath.Join(folder, "serve"), path, "state")
	input, err := server.StdinPipe()
	ok(t, err)
	output, err := server.StdoutPipe()
	ok(t, err)
	server.Stderr = os.Stderr
	ok(t, server.Start())
	defer func() {
		input.Close()
		ok(t, server.Wait())
	}()
	url, err := bufio.NewReader(output).ReadString('\n')
	ok(t, err)
	url = strings.TrimSpace(url)
	copied, err := exec.Command(filepath.Join(folder, "read"), url).Output()
	ok(t, err)
	same(t, copied, content)

	copy(content, make([]byte, 8))
	ok(t, os.WriteFile(path, content, 0o600))
	for _, expected := range []string{"1", "2", "3"} {
		said, err := exec.Command(filepath.Join(folder, "counter"), url).CombinedOutput()
		if strings.Contains(string(said), "no device can give a slice") {
			t.Skipf("SKIPPED: %s", bytes.TrimSpace(said))
		}
		check(t, err == nil && strings.TrimSpace(string(said)) == expected, "%v: %s", err, said)
	}
	stored, err := os.ReadFile(path)
	ok(t, err)
	check(t, binary.NativeEndian.Uint64(stored) == 3, "% x is stored", stored[:8])
}
