"""What any NBD client may ask of an export of 1 MiB of zeros as `region`, in the words of libnbd.

libnbd.py URI [REFUSED_URI]: the second is the same export, read-only.
"""

import errno
import sys

import nbd

SIZE = 1 << 20


def fails(number, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except nbd.Error as error:
        assert error.errnum == number, f"{call.__name__}: {error}"
        return error
    raise AssertionError(f"{call.__name__}{arguments} did not fail")


def connect(uri, **options):
    """A connection that lets through what libnbd itself would refuse."""
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    for name, value in options.items():
        getattr(handle, name)(value)
    handle.connect_uri(uri)
    return handle


def extents(handle, length, offset, flags=0):
    found = []
    handle.block_status(length, offset, lambda context, at, entries, error: found.append((context, at, entries)), flags)
    assert [(context, at) for context, at, _ in found] == [("base:allocation", offset)], found
    entries = found[0][2]
    return list(zip(entries[::2], entries[1::2]))


def pieces(handle, length, offset, flags=0):
    found = []
    data = handle.pread_structured(length, offset, lambda part, at, kind, error: found.append((len(part), at, kind)),
                                   flags)
    return data, sorted(found, key=lambda piece: piece[1])


def reads_and_writes(uri):
    handle = connect(uri)
    assert handle.get_size() == SIZE
    assert handle.get_structured_replies_negotiated() and handle.can_meta_context("base:allocation")
    assert handle.pread(SIZE, 0) == bytes(SIZE)
    assert extents(handle, SIZE, 0) == [(SIZE, 3)]
    handle.pwrite(b"x" * 65536, 131072)
    handle.pwrite(b"y" * 1000, 900001, nbd.CMD_FLAG_FUA)
    # Long reads, since short ones of memory take pages where there were none.
    assert handle.pread(70000, 131071)[:3] == b"\0xx"
    assert extents(handle, 262144, 0) == [(131072, 3), (65536, 0), (65536, 3)]
    assert extents(handle, 262144, 0, nbd.CMD_FLAG_REQ_ONE) == [(131072, 3)]
    # A read is pieces of bytes and holes, or one piece if that is asked for.
    data, found = pieces(handle, 262144, 0)
    assert data == bytes(131072) + b"x" * 65536 + bytes(65536)
    assert found == [(131072, 0, nbd.READ_HOLE), (65536, 131072, nbd.READ_DATA), (65536, 196608, nbd.READ_HOLE)], found
    assert pieces(handle, 262144, 0, nbd.CMD_FLAG_DF) == (data, [(262144, 0, nbd.READ_DATA)])
    assert pieces(handle, 65536, 0)[1] == [(65536, 0, nbd.READ_HOLE)]
    handle.zero(10, 131075, nbd.CMD_FLAG_FUA)
    assert handle.pread(131120, 0) == bytes(131072) + b"xxx" + bytes(10) + b"x" * 35
    handle.zero(65536, 196608, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    assert extents(handle, 524288, 0) == [(131072, 3), (131072, 0), (262144, 3)], "zeros without a hole are bytes"
    handle.zero(65536, 131072)
    assert extents(handle, 524288, 0) == [(196608, 3), (65536, 0), (262144, 3)]
    handle.trim(131072, 851968, nbd.CMD_FLAG_FUA)
    assert handle.pread(SIZE, 0) == bytes(SIZE)
    handle.cache(SIZE, 0)
    handle.flush()
    handle.shutdown()


def refusals(uri):
    handle = connect(uri)
    fails(errno.EINVAL, handle.pread, 2, SIZE - 1)
    fails(errno.ENOSPC, handle.pwrite, b"ab", SIZE - 1)
    fails(errno.ENOSPC, handle.zero, 2, SIZE - 1)
    fails(errno.EINVAL, handle.trim, 2, SIZE - 1)
    fails(errno.EINVAL, handle.cache, 1, SIZE)
    fails(errno.EINVAL, handle.pread, 1, (1 << 63) - 1)
    fails(errno.EINVAL, handle.block_status, 0, 0, lambda *_: 0)
    fails(errno.ENOTSUP, handle.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO)
    fails(errno.EINVAL, handle.pread, 1, 0, nbd.CMD_FLAG_NO_HOLE)
    # None of which ends the connection.
    assert handle.pread(1, 0) == b"\0"
    fails(errno.EINVAL, connect(uri, set_request_structured_replies=False).block_status, 4096, 0, lambda *_: 0)


def old_clients(uri):
    for options in {"set_request_structured_replies": False}, {"set_handshake_flags": 0}, \
            {"set_handshake_flags": nbd.HANDSHAKE_FLAG_NO_ZEROES}:
        handle = connect(uri, **options)
        assert not handle.get_structured_replies_negotiated()
        handle.pwrite(b"old", 7)
        assert handle.pread(5, 6) == b"\0old\0"
        fails(errno.EINVAL, handle.pread, 2, SIZE - 1)
        handle.zero(3, 7)
        handle.shutdown()


def options(uri):
    handle = connect(uri, set_opt_mode=True)
    names = []
    handle.opt_list(lambda name, description: names.append(name))
    assert names == ["region"], names
    contexts = []
    handle.opt_list_meta_context(contexts.append)
    assert contexts == ["base:allocation"], contexts
    handle.set_export_name("nothing")
    fails(errno.ENOENT, handle.opt_info)
    fails(errno.ENOENT, handle.opt_go)
    handle.set_export_name("region")
    handle.opt_info()
    assert handle.get_size() == SIZE
    handle.opt_go()
    assert handle.pread(1, 0) == b"\0"
    connect(uri, set_opt_mode=True).opt_abort()
    # One export has no need of a name; TLS is refused, and said to be.
    assert connect(uri.replace("region", "")).get_size() == SIZE
    fails(errno.ENOTSUP, connect, uri, set_tls=nbd.TLS_REQUIRE)


def many_at_once(uri):
    handle = connect(uri)
    blocks = [(number, nbd.Buffer.from_bytearray(bytearray([number]) * 4096)) for number in range(200)]
    for command in handle.aio_pwrite, handle.aio_pread:
        pending = {command(block, number * 4096) for number, block in blocks}
        while pending:
            handle.poll(-1)
            pending -= {cookie for cookie in pending if handle.aio_command_completed(cookie)}
    for number, block in blocks:
        assert block.to_bytearray() == bytearray([number]) * 4096
    handle.trim(SIZE, 0)
    handle.shutdown()


def read_only(uri):
    handle = connect(uri)
    assert handle.is_read_only() and handle.can_multi_conn()
    for call in (lambda: handle.pwrite(b"x", 0)), (lambda: handle.zero(1, 0)), (lambda: handle.trim(1, 0)):
        fails(errno.EPERM, call)
    assert handle.pread(1, 0) == b"\0"
    handle.flush()


if __name__ == "__main__":
    for test in reads_and_writes, refusals, old_clients, options, many_at_once:
        test(sys.argv[1])
    read_only(sys.argv[2])
