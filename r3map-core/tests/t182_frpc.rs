//! 182: the Go library's fRPC, both ways.

#![cfg(feature = "frpc")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use r3map_core::{Code, Protocol};

mod backends;
mod rpc;

use rpc::{ODD, Ours, memory, open};

const PROTOCOL: Protocol = Protocol::Frpc;

#[test]
fn what_is_written_over_frpc_is_kept() {
    let ours = Ours::new(PROTOCOL, memory(ODD));
    rpc::keeps_what_is_written(&ours.tcp);
    rpc::keeps_what_is_written(&format!("{}&chunk=4KiB&max_message=64KiB", ours.unix));
    rpc::keeps_what_is_written(&Ours::new(PROTOCOL, open(&ours.tcp).unwrap()).tcp);
}

#[test]
fn thousands_of_requests_are_under_way_over_frpc() {
    rpc::answers_thousands_at_once(&Ours::new(PROTOCOL, memory(4 << 20)).tcp);
}

#[test]
fn an_export_over_frpc_has_one_writer() {
    rpc::has_one_writer(PROTOCOL);
}

#[test]
fn a_server_over_frpc_that_comes_back_is_used_again() {
    rpc::comes_back(PROTOCOL);
}

#[test]
fn what_cannot_be_is_refused_over_frpc() {
    rpc::refuses_what_cannot_be(PROTOCOL);
}

/// Captured from the Go library: what its client sent, and what its server answered.
const READ: &[u8] = b"\x00\x01\x00\x0a\x00\x00\x00\x08\x08\x00\x0c\x20\x0d\x80\x80\x08";
const DATA: &[u8] = b"\x00\x01\x00\x0a\x00\x00\x00\x17\x08\x00\x0c\x20\x04\x0a\x10";

/// The same for a write of three bytes at 7, a sync, and a read of 33 MiB.
const OTHERS: [(&[u8], &[u8]); 3] = [
    (b"\0\x01\0\x0b\0\0\0\x0a\x08\0\x0d\x0e\x04\x0a\x03abc", b"\0\x01\0\x0b\0\0\0\x04\x08\0\x0c\x06"),
    (b"\0\x01\0\x0c\0\0\0\x02\x08\0", b"\0\x01\0\x0c\0\0\0\x02\x08\0"),
    (
        b"\0\x02\0\x0a\0\0\0\x09\x08\0\x0c\x80\x80\x80\x21\x0d\0",
        b"\0\x02\0\x0a\0\0\0\x1b\x06\x05\x0a\x17max chunk size exceeded",
    ),
];

#[test]
fn the_frames_of_the_go_library_are_answered_with_its_own() {
    let store = memory(1 << 20);
    store.write_at(b"sixteen bytes...", 65536).unwrap();
    let ours = Ours::new(PROTOCOL, store);
    let mut peer = TcpStream::connect(ours.address()).unwrap();
    peer.write_all(b"\x00\x07\x00\x00\x00\x00\x00\x00").unwrap();
    peer.write_all(READ).unwrap();
    let mut answer = [0; 8 + DATA.len() + 16];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..], [b"\x00\x07\x00\x01\x00\x00\x00\x00", DATA, b"sixteen bytes..."].concat()[..]);
    for (asked, said) in OTHERS {
        peer.write_all(asked).unwrap();
        let mut head = [0; 8];
        peer.read_exact(&mut head).unwrap();
        let mut rest = vec![0; usize::from(head[7])];
        peer.read_exact(&mut rest).unwrap();
        if said[8] == 6 {
            // An error's words are everybody's own.
            assert_eq!((&head[..4], &rest[..3]), (&said[..4], &said[8..11]));
        } else {
            assert_eq!([&head[..], &rest].concat(), said);
        }
    }
    // Outside, negative, too long: an error in the place of the answer.
    for (length, offset) in [
        (&b"\x0c\x20"[..], &b"\x0d\x80\x80\x80\x01"[..]),
        (b"\x0c\x01", b"\x0d\x00"),
        (b"\x0c\xfe\xff\xff\xff\x0f", b"\x0d\x00"),
    ] {
        let message = [b"\x08\x00", length, offset].concat();
        peer.write_all(&[b"\x00\x02\x00\x0a\x00\x00\x00", &[message.len() as u8][..], &message].concat()).unwrap();
        let mut head = [0; 8];
        peer.read_exact(&mut head).unwrap();
        let mut error = vec![0; usize::from(head[6]) << 8 | usize::from(head[7])];
        peer.read_exact(&mut error).unwrap();
        assert_eq!(error[..3], *b"\x06\x05\x0a");
    }
    // Nonsense ends the connection, before anything is set aside for it.
    for wrong in [
        &b"\x00\x01\x00\x0a\xff\xff\xff\xff"[..],
        b"\x00\x01\x00\x63\x00\x00\x00\x00",
        b"\x00\x01\x00\x0a\x00\x00\x00\x01\x08",
    ] {
        let mut peer = TcpStream::connect(ours.address()).unwrap();
        peer.write_all(wrong).unwrap();
        assert_eq!(peer.read(&mut [0; 8]).unwrap_or(0), 0);
    }
}

/// A server that answers the first read, by which a client tries it out, and the next as it is told.
fn answering(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("frpc://{}?size=65552", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut asked = [0; 14];
        peer.read_exact(&mut asked).unwrap();
        assert_eq!(asked, *b"\x00\x00\x00\x0a\x00\x00\x00\x06\x08\x00\x0c\x02\x0d\x00");
        peer.write_all(b"\x00\x00\x00\x0a\x00\x00\x00\x08\x08\x00\x0c\x02\x04\x0a\x01x").unwrap();
        let mut asked = [0; READ.len()];
        peer.read_exact(&mut asked).unwrap();
        assert_eq!(asked[..], *READ);
        peer.write_all(&answer).unwrap();
        let _ = peer.read(&mut [0; 1]);
    });
    url
}

#[test]
fn what_a_server_answers_is_looked_at_closely() {
    let head = |length: u8| [b"\x00\x01\x00\x0a\x00\x00\x00", &[length][..]].concat();
    let said = |message: &[u8]| [&head(message.len() as u8)[..], message].concat();
    let read = |answer: Vec<u8>| {
        let mut bytes = [0; 16];
        open(&answering(answer)).unwrap().read_at(&mut bytes, 65536).map(|()| bytes)
    };
    assert_eq!(read([DATA, b"sixteen bytes..."].concat()).unwrap(), *b"sixteen bytes...");
    let error = read(said(&OTHERS[2].1[8..])).unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains("the server said: max chunk size exceeded"), "{error:?}");
    for (answer, code) in [
        (said(b"\x08\x00\x0c\x1e\x04\x0a\x0ffifteen bytes.."), Code::Io),
        (said(b"\x08\x00\x0c\x01\x04\x0a\x00"), Code::Corrupt),
        (said(b"\x08\x00\x0c\x20\x04\x0a\x10short"), Code::Corrupt),
        (said(b"\x08"), Code::Corrupt),
    ] {
        assert_eq!(read(answer).unwrap_err().code(), code);
    }
}
