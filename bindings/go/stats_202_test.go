package r3map_test

import "testing"

func TestAMountCountsWhatIsReadAndWritten(t *testing.T) {
	m := open(t, "memory:?size=8192")
	write(t, m, make([]byte, 100), 0)
	read(t, m, 60, 0)
	read(t, m, 40, 0)
	stats, err := m.Stats()
	ok(t, err)
	ok(t, m.Close())
	for name, expected := range map[string]uint64{"size": 8192, "reads": 2, "bytes_read": 100, "writes": 1, "bytes_written": 100} {
		value, known := stats[name]
		check(t, known && value == expected, "%s is %d", name, value)
	}
	_, known := stats["rads"]
	check(t, !known, "a figure of no name")
}
