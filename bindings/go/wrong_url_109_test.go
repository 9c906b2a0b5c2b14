package r3map_test

import (
	"errors"
	"io/fs"
	"testing"

	"r3map.dev/go/r3map"
)

func TestAWrongURLIsRefusedWithWhatIsWrongWithIt(t *testing.T) {
	for _, wrong := range []struct {
		url  string
		code r3map.Code
		text string
	}{
		{"fiel:///x", r3map.ErrInvalidArgument, `unknown scheme "fiel"; did you mean "file"?`},
		{"memory:?sice=1", r3map.ErrInvalidArgument, `unknown parameter "sice"; did you mean "size"?`},
		{"/etc/passwd", r3map.ErrInvalidArgument, "is not a URL"},
		{"", r3map.ErrInvalidArgument, ""},
		{"file:///does/not/exist", r3map.ErrNotFound, "/does/not/exist"},
		{"\xff\xfe", r3map.ErrInvalidArgument, "the URL is not UTF-8"},
		{"memory:?size=1\x00", r3map.ErrInvalidArgument, "the URL: it holds a NUL byte"},
	} {
		_, err := r3map.BackendFromURL(background, wrong.url)
		fails(t, err, wrong.code, wrong.text)
		_, err = r3map.Open(background, wrong.url)
		fails(t, err, wrong.code, wrong.text)
	}
	_, err := r3map.Open(background, "file:///does/not/exist")
	check(t, errors.Is(err, fs.ErrNotExist), "%v is not fs.ErrNotExist", err)
}
