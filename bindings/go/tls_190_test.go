package r3map_test

import (
	"path/filepath"
	"strings"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAServerOffLoopbackIsReachedByTLSAndAToken(t *testing.T) {
	server := serve(t, "0.0.0.0:0", r3map.WithState(filepath.Join(t.TempDir(), "state")))
	memory := openBackend(t, "memory:?size=100000")
	ok(t, server.Export("region", memory, r3map.WithAllow("client")))
	ok(t, server.Export("other", memory, r3map.WithAllow("somebody")))
	base := strings.Replace(server.URL(), "0.0.0.0", "127.0.0.1", 1)
	url := base + "/region"
	check(t, strings.HasPrefix(url, "r3maps://"), "it is at %s", url)
	line, err := server.ClientLine(url)
	ok(t, err)
	words := strings.Split(line, " ")
	check(t, len(words) == 6 && words[5] == url, "the line is %s", line)
	token, pin := r3map.WithToken(strings.TrimPrefix(words[0], "R3MAP_TOKEN=")), r3map.WithTLSPin(words[4])

	remote, err := r3map.BackendFromURL(background, url, pin, token)
	ok(t, err)
	_, err = remote.WriteAt([]byte("by tls"), 99000)
	ok(t, err)
	found := make([]byte, 6)
	_, err = remote.ReadAt(found, 99000)
	ok(t, err)
	check(t, string(found) == "by tls", "it reads %q", found)
	ok(t, remote.Close())

	refused := func(url string, code r3map.Code, text string, options ...r3map.BackendOption) {
		t.Helper()
		_, err := r3map.BackendFromURL(background, url, options...)
		fails(t, err, code, text)
	}
	refused(base+"/other", r3map.ErrPermissionDenied, `"other"`, pin, token)
	refused(url, r3map.ErrNotAuthenticated, "the server wants a token", pin)
	refused(url, r3map.ErrNotAuthenticated, "does not know this token", pin, r3map.WithToken("0123456789abcdef"))
	refused(url, r3map.ErrNotAuthenticated, "another key", r3map.WithTLSPin(strings.Repeat("00", 32)), token)
	refused(url, r3map.ErrInvalidArgument, "tls_ca, or tls_pin", token)
	refused(strings.Replace(url, "r3maps", "r3map", 1), r3map.ErrNotAuthenticated, "this server speaks TLS only")
	_, err = r3map.Serve("", r3map.WithTLSCert("/nowhere"))
	fails(t, err, r3map.ErrInvalidArgument, "needs both")
	_, err = r3map.Serve("", r3map.WithToken("\x00"))
	fails(t, err, r3map.ErrInvalidArgument, "token: it holds a NUL byte")
}

func TestASeederOffLoopbackSaysHowItsLeecherDoes(t *testing.T) {
	m := open(t, "memory:?size=100000")
	seeder := seed(t, m)
	check(t, seeder.ClientLine() == "", "on this host nothing of it is needed")
	ok(t, seeder.Close())
	seeder, err := m.Seed(background, "0.0.0.0:0", r3map.WithState(filepath.Join(t.TempDir(), "state")))
	ok(t, err)
	defer seeder.Close()
	words := strings.Split(seeder.ClientLine(), " ")
	check(t, len(words) == 7 && words[2] == "leech" && words[6] == "LOCAL", "the line is %s", words)
	token, pin := r3map.WithToken(strings.TrimPrefix(words[0], "R3MAP_TOKEN=")), r3map.WithTLSPin(words[4])
	leecher := leech(t, strings.Replace(seeder.URL(), "0.0.0.0", "127.0.0.1", 1), "memory:", token, pin)
	ok(t, leecher.WaitLocal(patience(t), 1))
	ok(t, leecher.Close())
}
