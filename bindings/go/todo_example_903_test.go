package r3map_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheTodoListMovesToASecondProcessWhileItIsEditedAndNoTaskIsLostOrDoubled(t *testing.T) {
	todo := filepath.Join(examples(t), "todo")
	here, there := filepath.Join(t.TempDir(), "here"), filepath.Join(t.TempDir(), "there")
	seeder := exec.Command(todo, "seed", here, "8000")
	output, err := seeder.StdoutPipe()
	ok(t, err)
	said, err := seeder.StderrPipe()
	ok(t, err)
	ok(t, seeder.Start())
	t.Cleanup(func() { seeder.Process.Kill() })
	url, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		why, _ := io.ReadAll(said)
		check(t, strings.Contains(string(why), "no device can give a slice"), "%v: %s", err, why)
		t.Skipf("SKIPPED: %s", bytes.TrimSpace(why))
	}

	var told bytes.Buffer
	leecher := exec.Command(todo, "leech", strings.TrimSpace(url), there, "16000")
	leecher.Stderr = &told
	printed, err := leecher.Output()
	check(t, err == nil, "%v: %s", err, told.String())
	ok(t, seeder.Wait())
	tasks := strings.Split(strings.TrimSuffix(string(printed), "\n"), "\n")
	check(t, len(tasks) == 16000 && strings.HasPrefix(tasks[0], "[x] "), "%d tasks", len(tasks))
	var took, edited int
	_, err = fmt.Sscanf(told.String(), "todo: took %d tasks, edited %d times", &took, &edited)
	check(t, err == nil && took == edited, "%v: %s", err, told.String())
	// Every task once, in order: first all of the seeder's, as many as it said, then the leecher's.
	for i, task := range tasks {
		editor := "the leecher"
		if i < took {
			editor = "the seeder"
		}
		check(t, task[4:] == fmt.Sprintf("task %d of %s", i, editor), "task %d is %q", i, task)
	}
}
