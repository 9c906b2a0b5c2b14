"""The published protocol over Python's grpcio, made from our .proto files when it starts.

grpc_peer.py server SIZE                    serves memory; prints the port. Takes `fail TEXT`, `short`, `long`, `negative`,
                                            `none` on standard input, says `ok`, and answers reads so from then on.
grpc_peer.py client ADDRESS SIZE            asks everything of the server at ADDRESS, and leaves with 0 if all is as it
                                            should be.
grpc_peer.py refused ADDRESS CODE TEXT      a write there is refused with that code, and with this in its text.
grpc_peer.py denied ADDRESS CODE            everything there is refused with that code.

By TLS where R3MAP_PEER_TLS names a directory of certificates as keygen makes them; R3MAP_PEER_NAME says whose to show, and
R3MAP_PEER_TOKEN is a client's token.
"""

import os
import random
import sys
import threading
from concurrent import futures

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "proto"))
messages, services = grpc.protos_and_services("backend.proto")
# What the Go library's side takes by default is grpcio's default too: 4 MiB.
LONG = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def pem(name):
    with open(os.path.join(os.environ["R3MAP_PEER_TLS"], name + ".pem"), "rb") as file:
        return file.read()


def connect(address, options=()):
    if not os.environ.get("R3MAP_PEER_TLS"):
        return grpc.insecure_channel(address, options=options)
    name, token = os.environ.get("R3MAP_PEER_NAME"), os.environ.get("R3MAP_PEER_TOKEN")
    shown = (pem(name + "-key"), pem(name + "-cert")) if name else (None, None)
    credentials = grpc.ssl_channel_credentials(pem("ca-cert"), *shown)
    if token:
        call = grpc.access_token_call_credentials(token)
        credentials = grpc.composite_channel_credentials(credentials, call)
    return grpc.secure_channel(address, credentials, options=options)


class Memory(services.BackendServicer):
    """A region in memory that does as it is told."""

    def __init__(self, size):
        self.bytes, self.lock, self.mode, self.text = bytearray(size), threading.Lock(), "none", ""

    def ReadAt(self, request, context):
        if self.mode == "fail":
            context.abort(grpc.StatusCode.UNKNOWN, self.text)
        with self.lock:
            found = bytes(self.bytes[request.Off:request.Off + request.Length])
        said = {"short": len(found) - 1, "negative": -1}.get(self.mode, len(found))
        if self.mode == "long":
            found += b"x"
        return messages.ReadAtReply(N=said, P=found)

    def WriteAt(self, request, context):
        with self.lock:
            self.bytes[request.Off:request.Off + len(request.P)] = request.P
        return messages.WriteAtReply(Length=len(request.P))

    def Sync(self, request, context):
        return messages.SyncReply()


def serve(size):
    server, memory = grpc.server(futures.ThreadPoolExecutor(8)), Memory(size)
    services.add_BackendServicer_to_server(memory, server)
    if os.environ.get("R3MAP_PEER_TLS"):
        shown = [(pem("server-key"), pem("server-cert"))]
        credentials = grpc.ssl_server_credentials(shown, pem("ca-cert"), require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        memory.mode, _, memory.text = line.strip().partition(" ")
        print("ok", flush=True)
    server.stop(None)


def refusal(call, *arguments):
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError(f"{arguments} was not refused")


def ask(address, size):
    with connect(address, LONG) as channel:
        stub = services.BackendStub(channel)
        expected, numbers = bytearray(size), random.Random(7)
        for step in range(300):
            offset = numbers.randrange(size)
            length = min(numbers.choice([1, 100, 5000, 200_000]), size - offset)
            if step % 2:
                data = numbers.randbytes(length)
                expected[offset:offset + length] = data
                assert stub.WriteAt(messages.WriteAtArgs(Off=offset, P=data)).Length == length
            else:
                reply = stub.ReadAt(messages.ReadAtArgs(Length=length, Off=offset))
                assert (reply.N, reply.P) == (length, bytes(expected[offset:offset + length])), step
        stub.Sync(messages.SyncArgs())
        # Many at once, on one connection.
        under_way = [(at, stub.ReadAt.future(messages.ReadAtArgs(Length=1000, Off=at)))
                     for at in range(0, size - 1000, 1000)] * 4
        assert all(asked.result().P == expected[at:at + 1000] for at, asked in under_way)
        assert stub.ReadAt(messages.ReadAtArgs(Length=0, Off=size)).P == b""
        for length, offset, code in [(-1, 0, "INVALID_ARGUMENT"), (1, -1, "INVALID_ARGUMENT"),
                                     (2**31 - 1, 0, "INVALID_ARGUMENT"), ((32 << 20) + 1, 0, "INVALID_ARGUMENT"),
                                     (2, size - 1, "OUT_OF_RANGE"), (1, 2**63 - 1, "OUT_OF_RANGE")]:
            said = refusal(stub.ReadAt, messages.ReadAtArgs(Length=length, Off=offset))
            assert said[0] == code, (length, offset, said)
        assert refusal(stub.WriteAt, messages.WriteAtArgs(Off=size - 1, P=b"12"))[0] == "OUT_OF_RANGE"
        assert refusal(stub.WriteAt, messages.WriteAtArgs(Off=0, P=bytes((32 << 20) + 100)))[0] == "OUT_OF_RANGE"
        unknown = channel.unary_unary("/com.pojtinger.felicitas.r3map.mount.v1.Backend/Size")
        assert refusal(unknown, b"")[0] == "UNIMPLEMENTED"
        # Nothing of that did any harm.
        assert stub.ReadAt(messages.ReadAtArgs(Length=100, Off=5)).P == expected[5:105]


def refused(address, code, text):
    with connect(address) as channel:
        stub = services.BackendStub(channel)
        said = refusal(stub.WriteAt, messages.WriteAtArgs(Off=0, P=b"1"))
        assert said[0] == code and text in said[1], said
        assert stub.ReadAt(messages.ReadAtArgs(Length=1, Off=0)).N == 1


def denied(address, code):
    with connect(address) as channel:
        stub = services.BackendStub(channel)
        for call, message in [(stub.WriteAt, messages.WriteAtArgs(Off=0, P=b"1")), (stub.Sync, messages.SyncArgs()),
                              (stub.ReadAt, messages.ReadAtArgs(Length=1, Off=0))]:
            said = refusal(call, message)
            assert said[0] == code, said


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "server":
        serve(int(rest[0]))
    elif what == "client":
        ask(rest[0], int(rest[1]))
    elif what == "denied":
        denied(*rest)
    else:
        refused(*rest)
