//! One end of the wire without a client or server: says whatever a test wants said.

use std::io::{Read, Write};
use std::net::TcpStream;

use r3map_core::wire::{HEADER_LENGTH, Header, Hello, Kind, Welcome, greeting};
use r3map_core::{Code, Error};

use super::SOON;

/// A connection whose bytes are the test's.
pub struct Raw(pub TcpStream);

impl Raw {
    /// Connects to a `host:port`.
    pub fn connect(address: &str) -> Raw {
        Raw::over(TcpStream::connect(address).unwrap())
    }

    /// Speaks over a connection there is.
    pub fn over(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw(stream)
    }

    /// Connects and is welcomed.
    pub fn welcomed(address: &str, hello: &Hello) -> Raw {
        let mut raw = Raw::connect(address);
        raw.hello(hello);
        assert_eq!(raw.receive().unwrap().0.kind, Kind::Welcome);
        raw
    }

    pub fn hello(&mut self, hello: &Hello) {
        self.send(Header::new(Kind::Hello, 0), &hello.encode());
    }

    pub fn send(&mut self, header: Header, payload: &[u8]) {
        self.bytes(&frame(header, payload));
    }

    /// Sends bytes; a peer that has hung up already is what some tests wait for.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// The next frame, or `None` at the end of the stream.
    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut header = [0; HEADER_LENGTH];
        self.0.read_exact(&mut header).ok()?;
        let header = Header::decode(&header).unwrap();
        let mut payload = vec![0; header.payload as usize];
        self.0.read_exact(&mut payload).unwrap();
        assert_eq!(header, header.with_payload(&payload), "the checksum is wrong");
        Some((header, payload))
    }

    /// The error that comes next.
    pub fn refusal(&mut self) -> (u64, Error) {
        let (header, payload) = self.receive().expect("the connection ended without a word");
        assert_eq!(header.kind, Kind::Error);
        (header.id, greeting::decode_error(&header, &payload))
    }

    /// Expects the connection to be refused with this code and then closed.
    pub fn expect_end(&mut self, code: Code) -> Error {
        let (id, error) = self.refusal();
        assert_eq!((id, error.code()), (0, code), "{error}");
        assert!(self.receive().is_none());
        error
    }
}

/// A frame as it is sent, its checksums right.
pub fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    [&header.with_payload(payload).encode()[..], payload].concat()
}

/// A HELLO as a client says it.
/// How a server of a mebibyte, which uses no features, answers a HELLO.
pub fn welcome() -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        written: None,
        moving: None,
        size: 1 << 20,
        read_only: false,
        chunk_size: 256 << 10,
        alignment: 1,
        max_request: 1 << 20,
        identity: [1; 16],
        keeper: [2; 16],
    }
}

pub fn hello(export: &str) -> Hello {
    Hello {
        versions: (1, 1),
        features: 0,
        session: None,
        client: *b"a client of test",
        generation: 1,
        role: 0,
        write: true,
        export: export.to_owned(),
        display: "test".to_owned(),
    }
}
