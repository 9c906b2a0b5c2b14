// The published protocol over Go's grpc, from our .proto.
//
//	peer server SIZE              serves memory; prints the port, and ends with its standard input
//	peer client ADDRESS SIZE      asks everything of the server at ADDRESS, and leaves with 0 if all is as it should be
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"r3map.dev/interop/mount"
)

func main() {
	if len(os.Args) < 3 {
		fail("peer server SIZE | peer client ADDRESS SIZE")
	}
	size, err := strconv.Atoi(os.Args[len(os.Args)-1])
	check(err)
	if os.Args[1] == "server" {
		serve(size)
	} else {
		ask(os.Args[2], size)
	}
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

// memory is a region in memory.
type memory struct {
	mount.UnimplementedBackendServer
	lock  sync.RWMutex
	bytes []byte
}

func (m *memory) ReadAt(_ context.Context, args *mount.ReadAtArgs) (*mount.ReadAtReply, error) {
	if args.Off < 0 || args.Length < 0 || args.Off > int64(len(m.bytes)) {
		return nil, io.EOF
	}
	m.lock.RLock()
	defer m.lock.RUnlock()
	p := make([]byte, args.Length)
	n := copy(p, m.bytes[args.Off:])
	return &mount.ReadAtReply{N: int32(n), P: p}, nil
}

func (m *memory) WriteAt(_ context.Context, args *mount.WriteAtArgs) (*mount.WriteAtReply, error) {
	if args.Off < 0 || args.Off > int64(len(m.bytes)) {
		return nil, io.EOF
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	return &mount.WriteAtReply{Length: int32(copy(m.bytes[args.Off:], args.P))}, nil
}

func (m *memory) Sync(context.Context, *mount.SyncArgs) (*mount.SyncReply, error) {
	return &mount.SyncReply{}, nil
}

func serve(size int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := grpc.NewServer()
	mount.RegisterBackendServer(server, &memory{bytes: make([]byte, size)})
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	check(server.Serve(listener))
}

func ask(address string, size int) {
	ctx := context.Background()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	defer connection.Close()
	client := mount.NewBackendClient(connection)
	expected, random := make([]byte, size), rand.New(rand.NewSource(7))
	for step := 0; step < 300; step++ {
		offset := random.Intn(size)
		length := min([]int{1, 100, 5000, 200_000}[random.Intn(4)], size-offset)
		if step%2 == 1 {
			random.Read(expected[offset : offset+length])
			reply, err := client.WriteAt(ctx, &mount.WriteAtArgs{Off: int64(offset), P: expected[offset : offset+length]})
			check(err)
			if int(reply.Length) != length {
				fail("step %d: stored %d of %d bytes", step, reply.Length, length)
			}
		} else {
			same(client, offset, length, expected)
		}
	}
	_, err = client.Sync(ctx, &mount.SyncArgs{})
	check(err)
	var group sync.WaitGroup
	for offset := 0; offset+1000 <= size; offset += 250 {
		group.Add(1)
		go func() {
			defer group.Done()
			same(client, offset, 1000, expected)
		}()
	}
	group.Wait()
	for _, refused := range []struct {
		length int32
		offset int64
		code   codes.Code
	}{
		{-1, 0, codes.InvalidArgument},
		{1, -1, codes.InvalidArgument},
		{32<<20 + 1, 0, codes.InvalidArgument},
		{2, int64(size) - 1, codes.OutOfRange},
	} {
		_, err := client.ReadAt(ctx, &mount.ReadAtArgs{Length: refused.length, Off: refused.offset})
		if status.Code(err) != refused.code {
			fail("%d bytes at %d: %v", refused.length, refused.offset, err)
		}
	}
	same(client, 5, 100, expected)
}

// same fails unless the server has the bytes that are expected.
func same(client mount.BackendClient, offset, length int, expected []byte) {
	reply, err := client.ReadAt(context.Background(), &mount.ReadAtArgs{Length: int32(length), Off: int64(offset)})
	check(err)
	if int(reply.N) != length || !bytes.Equal(reply.P, expected[offset:offset+length]) {
		fail("%d bytes at %d differ", length, offset)
	}
}
