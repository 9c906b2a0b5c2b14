package r3map_test

import (
	"regexp"
	"testing"

	"r3map.dev/go/r3map"
)

func TestTheLibrarySaysItsVersion(t *testing.T) {
	check(t, regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(r3map.Version()), "it is %q", r3map.Version())
}
