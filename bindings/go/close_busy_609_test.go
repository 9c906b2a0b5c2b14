package r3map_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"r3map.dev/go/r3map"
)

func init() {
	// Takes a region and then stops where it stands.
	children["leecher"] = func() {
		l, err := r3map.Leech(background, os.Getenv("R3MAP_TEST_URL"), "memory:", r3map.WithPull(r3map.PullDemand))
		must(err)
		_, err = l.Finalize(background)
		must(err)
		fmt.Println("taken")
		select {}
	}
}

func TestClosingASeederBetweenTheCommitAndTheLastByteIsBusyAndAbandonGivesTheRestUp(t *testing.T) {
	_, url := newFile(t, 64<<20)
	m := open(t, url)
	s := seed(t, m)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "R3MAP_TEST_CHILD=leecher", "R3MAP_TEST_URL="+s.URL())
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	ok(t, err)
	ok(t, child.Start())
	t.Cleanup(func() { child.Process.Kill() })
	expect(t, s, r3map.SeedWaiting)
	expect(t, s, r3map.SeedTracking)
	ok(t, s.Suspended(expect(t, s, r3map.SeedSuspending), nil))
	expect(t, s, r3map.SeedCommitted)
	_, err = bufio.NewReader(output).ReadString('\n')
	ok(t, err)
	ok(t, child.Process.Kill())
	child.Wait()

	fails(t, s.Close(), r3map.ErrBusy, "")
	fails(t, s.Close(), r3map.ErrBusy, "")
	fails(t, m.Close(), r3map.ErrBusy, "close its seeder first")
	ok(t, s.Abandon())
	ok(t, s.WaitDrained(patience(t)))
	ok(t, s.Close())
	_, err = m.ReadAt(make([]byte, 1), 0)
	fails(t, err, r3map.ErrFenced, "")
	ok(t, m.Close())
}
