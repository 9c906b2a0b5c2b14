// Command serve offers a file to others until standard input ends, and prints its URL: serve /absolute/path name
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"r3map.dev/go/r3map"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: serve /absolute/path name")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func serve(path, name string) error {
	backend, err := r3map.BackendFromURL(context.Background(), "file://"+path)
	if err != nil {
		return err
	}
	defer backend.Close()
	server, err := r3map.Serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := server.Export(name, backend); err != nil {
		server.Close()
		return err
	}
	fmt.Println(server.URL() + "/" + name)
	io.Copy(io.Discard, os.Stdin)
	return server.Close()
}
