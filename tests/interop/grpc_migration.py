"""The published protocol for moving a region, over Python's grpcio, made from our .proto files when it starts.

grpc_migration.py leecher ADDRESS SIZE      prints 0, then does what standard input says and answers with `ok …` or with
                                            `error CODE text`: `track`, `pull BLOCK`, `read OFFSET LENGTH`,
                                            `sync [SECONDS]`, `again`, `save PATH`, `reconnect`, `close`.
grpc_migration.py seeder SIZE BLOCK         serves memory; prints the port, then takes `write OFFSET LENGTH`, `save PATH`,
                                            `asked`, and `mode MODE` of `none`, `refuse`, `lose` (the answer to Sync),
                                            `negative`, `beyond`, `long`, `untracked`.
"""

import os
import random
import sys
import threading
from concurrent import futures

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "proto"))
messages, services = grpc.protos_and_services("seeder.proto")
# A new channel has a connection of its own; a path is no authority that HTTP/2 takes.
LONELY = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost")]


class Leecher:
    """What a leecher of the Go library does, step by step."""

    def __init__(self, address, size):
        self.address, self.size, self.bytes = address, size, bytearray(size)
        self.block, self.dirty, self.channel = 0, [], None
        self.reconnect()

    def reconnect(self):
        if self.channel:
            self.channel.close()
        self.channel = grpc.insecure_channel(self.address, options=LONELY)
        self.stub = services.SeederStub(self.channel)

    def track(self):
        self.stub.Track(messages.TrackArgs())

    def fetch(self, offsets):
        def asked(offset):
            length = min(self.block, self.size - offset)
            return offset, length, self.stub.ReadAt.future(messages.ReadAtArgs(Length=length, Off=offset))

        for offset, length, under_way in [asked(offset) for offset in offsets]:
            reply = under_way.result()
            assert reply.N == len(reply.P) == length
            self.bytes[offset:offset + length] = reply.P

    def pull(self, block):
        self.block = int(block)
        self.fetch(range(0, self.size, self.block))

    def read(self, offset, length):
        return self.stub.ReadAt(messages.ReadAtArgs(Length=int(length), Off=int(offset))).N

    def sync(self, seconds="60"):
        self.dirty = list(self.stub.Sync(messages.SyncArgs(), timeout=float(seconds)).DirtyOffsets)
        assert self.dirty == sorted(set(self.dirty)) and all(0 <= offset < self.size for offset in self.dirty)
        assert not self.block or all(offset % self.block == 0 for offset in self.dirty)
        return len(self.dirty)

    def again(self):
        # As the Go library does: what is dirty is looked up by its offset.
        self.fetch([offset for offset in range(0, self.size, self.block) if offset in set(self.dirty)])

    def save(self, path):
        with open(path, "wb") as file:
            file.write(self.bytes)

    def close(self):
        self.stub.Close(messages.CloseArgs())


class Seeder(services.SeederServicer):
    """A region in memory that is written while it is pulled, as a seeder of the Go library has it."""

    def __init__(self, size, block):
        self.bytes, self.block, self.lock = bytearray(random.Random(size).randbytes(size)), block, threading.Lock()
        self.tracking, self.dirty, self.behaviour, self.calls = False, {}, "none", []

    def ReadAt(self, request, context):
        with self.lock:
            found = bytes(self.bytes[request.Off:request.Off + request.Length])
        if self.behaviour == "long":
            found += b"x"
        return messages.ReadAtReply(N=len(found), P=found)

    def Track(self, request, context):
        self.calls.append("track")
        if self.behaviour == "untracked":
            context.abort(grpc.StatusCode.UNKNOWN, "the disk is on fire")
        with self.lock:
            self.tracking = True
        return messages.TrackReply()

    def Sync(self, request, context):
        self.calls.append("sync")
        if self.behaviour == "refuse":
            context.abort(grpc.StatusCode.UNKNOWN, "the app goes on")
        with self.lock:
            dirty, self.dirty, self.tracking = list(self.dirty), {}, False
        if self.behaviour == "lose":
            os._exit(0)
        return messages.SyncReply(DirtyOffsets=dirty + {"negative": [-4096], "beyond": [1 << 40]}.get(self.behaviour, []))

    def Close(self, request, context):
        self.calls.append("close")
        return messages.CloseReply()

    def write(self, offset, length):
        offset, length = int(offset), int(length)
        with self.lock:
            self.bytes[offset:offset + length] = random.randbytes(length)
            for block in range(offset // self.block, -(-(offset + length) // self.block) if self.tracking else 0):
                self.dirty[block * self.block] = True

    def save(self, path):
        with open(path, "wb") as file:
            file.write(self.bytes)

    def mode(self, behaviour):
        self.behaviour = behaviour

    def asked(self):
        return " ".join(self.calls)


def obey(whom):
    for line in sys.stdin:
        what, *arguments = line.split()
        try:
            said = getattr(whom, what)(*arguments)
            print("ok" if said is None else f"ok {said}", flush=True)
        except grpc.RpcError as error:
            print("error", error.code().name, error.details(), flush=True)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "leecher":
        leecher = Leecher(rest[0], int(rest[1]))
        print(0, flush=True)
        obey(leecher)
    else:
        server, seeder = grpc.server(futures.ThreadPoolExecutor(8)), Seeder(int(rest[0]), int(rest[1]))
        services.add_SeederServicer_to_server(seeder, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(port, flush=True)
        obey(seeder)
        server.stop(None)
