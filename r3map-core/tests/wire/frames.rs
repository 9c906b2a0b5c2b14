//! Golden frames: bytes written down once, made without this library, that every version must read and write.

use r3map_core::version::Version;
use r3map_core::wire::header::{RETRYABLE, SYNCED, ZEROES};
use r3map_core::wire::{HEADER_LENGTH, Header, Hello, Kind, Welcome, greeting};
use r3map_core::{Code, Error};

use crate::support::pattern;

const HELLO: &str = "\
    72336d5701000000000000000000000000000000000000000000000000000000350000000890e506000000002934a9d3\
    01000100010001000000000000000000000102030405060708090a0b0c0d0e0f0300000000000000050004006d6f6465\
    6c74657374";
const WELCOME: &str = "\
    72336d5702000000000000000000000000000000000000000000000000000000480000005ad37ce400000000a44dfb2a\
    0100000001000000000000000000000087d6120000000000000004000100000000000002000000001011121314151617\
    18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f";
const ERROR: &str = "\
    72336d5703000200090000000000000000000000000000000000000000000000150000007564c25f00000000eee42104\
    080000006f7574736964653a206772c3b6c39f6572";
const CLOSE: &str = "\
    72336d5704000400000000000000000000000000000000000000000000000000000000000000000000000000b7c317d2";
const READ: &str = "\
    72336d5710000000010000000000000000100000000000000000010000000000000000000000000000000000d68cdf8c";
const WRITE: &str = "\
    72336d5711000000020000000000000000100000000000000500000000000000050000004cbb719a00000000cd3eb03f\
    68656c6c6f";
const ZERO: &str = "\
    72336d571200000003000000000000000000000000000000000000000001000000000000000000000000000016df79cc";
const SYNC: &str = "\
    72336d5713000000040000000000000000000000000000000000000000000000000000000000000000000000081550ed";
const DATA: &str = "\
    72336d5720000000010000000000000000100000000000000500000000000000050000004cbb719a00000000c4498890\
    68656c6c6f";
const ZEROES_BIT: &str = "\
    72336d57200001000100000000000000001000000000000000000100000000000000000000000000000000001082fde9";
const DONE: &str = "\
    72336d5721000000020000000000000000000000000000000000000000000000000000000000000000000000c17e3add";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Decodes a golden frame, checks that it encodes to itself, and gives its payload.
fn check(golden: &str, expected: Header) -> Vec<u8> {
    let bytes = bytes(golden);
    let (header, payload) = bytes.split_first_chunk::<HEADER_LENGTH>().unwrap();
    let expected = expected.with_payload(payload);
    assert_eq!(Header::decode(header).unwrap(), expected);
    assert_eq!(expected.encode(), *header);
    payload.to_vec()
}

fn numbered(first: u8) -> [u8; 16] {
    std::array::from_fn(|index| first + index as u8)
}

#[test]
fn greetings_are_the_golden_ones() {
    let hello = Hello {
        versions: (1, 1),
        features: 0,
        session: None,
        client: numbered(0),
        generation: 3,
        role: 1,
        write: true,
        export: "model".to_owned(),
        display: "test".to_owned(),
    };
    let payload = check(HELLO, Header::new(Kind::Hello, 0));
    assert_eq!(Hello::decode(&payload).unwrap(), hello);
    assert_eq!(hello.encode(), payload);
    let welcome = Welcome {
        version: 1,
        features: 0,
        written: None,
        moving: None,
        size: 1_234_567,
        read_only: true,
        chunk_size: 256 << 10,
        alignment: 1,
        max_request: 32 << 20,
        identity: numbered(16),
        keeper: numbered(32),
    };
    let payload = check(WELCOME, Header::new(Kind::Welcome, 0));
    assert_eq!(Welcome::decode(&payload).unwrap(), welcome);
    assert_eq!(welcome.encode(), payload);
    // With a version the feature's bit is set, and it stands behind the rest.
    let versioned = Welcome { written: Some(Version { writer: numbered(48), count: 0x0102 }), ..welcome };
    let mut golden = payload.to_vec();
    golden[8] = 2;
    golden.extend(numbered(48));
    golden.extend([2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(versioned.encode(), golden);
    assert_eq!(Welcome::decode(&golden).unwrap(), versioned);
    assert!(Welcome::decode(&golden[..golden.len() - 1]).is_err());
}

#[test]
fn requests_and_answers_are_the_golden_ones() {
    check(READ, Header::new(Kind::Read, 1).about(4096, 65536));
    assert_eq!(check(WRITE, Header::new(Kind::Write, 2).about(4096, 5)), b"hello");
    check(ZERO, Header::new(Kind::Zero, 3).about(0, 1 << 40));
    check(SYNC, Header::new(Kind::Sync, 4));
    assert_eq!(check(DATA, Header::new(Kind::Data, 1).about(4096, 5)), b"hello");
    check(ZEROES_BIT, Header::new(Kind::Data, 1).about(4096, 65536).with_flags(ZEROES));
    check(DONE, Header::new(Kind::Done, 2));
    check(CLOSE, Header::new(Kind::Close, 0).with_flags(SYNCED));
}

#[test]
fn an_error_travels_with_code_words_and_whether_to_try_again() {
    let payload = check(ERROR, Header::new(Kind::Error, 9).with_flags(RETRYABLE));
    let error = Error::new(Code::OutOfRange, "outside: größer").with_retryable(true);
    let (header, encoded) = greeting::encode_error(9, &error);
    assert_eq!(encoded, payload);
    let decoded = greeting::decode_error(&header, &payload);
    assert_eq!(
        (decoded.code(), decoded.message(), decoded.is_retryable()),
        (Code::OutOfRange, "outside: größer", true)
    );
    for code in Code::ALL {
        let (header, payload) = greeting::encode_error(1, &Error::new(code, "x"));
        assert_eq!(greeting::decode_error(&header, &payload).code(), code);
    }
}

#[test]
fn an_error_of_a_later_version_or_with_control_letters_is_still_an_error() {
    let header = Header::new(Kind::Error, 1);
    assert_eq!(greeting::decode_error(&header, &[0xff, 0xff, 0, 0, b'x']).code(), Code::Internal);
    assert_eq!(greeting::decode_error(&header, b"\x08\0\0\0a\nb\x1b[2J\xff").message(), "a b [2J\u{fffd}");
    let long = Error::new(Code::Io, "ü".repeat(5000));
    let (header, payload) = greeting::encode_error(1, &long);
    assert!(payload.len() <= 4 + 4096);
    assert!(greeting::decode_error(&header, &payload).message().chars().all(|letter| letter == 'ü'));
}

#[test]
fn a_bit_flipped_anywhere_in_a_header_is_refused() {
    for golden in [HELLO, WELCOME, ERROR, CLOSE, READ, WRITE, ZERO, SYNC, DATA, ZEROES_BIT, DONE] {
        let mut header: [u8; HEADER_LENGTH] = *bytes(golden).first_chunk().unwrap();
        for bit in 0..HEADER_LENGTH * 8 {
            header[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&header).unwrap_err().code(), Code::Corrupt, "bit {bit}");
            header[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn greetings_cut_short_anywhere_or_filled_with_noise_are_refused_and_longer_ones_are_of_later_versions() {
    let hello = bytes(HELLO)[HEADER_LENGTH..].to_vec();
    let welcome = bytes(WELCOME)[HEADER_LENGTH..].to_vec();
    for length in 0..hello.len() {
        assert!(Hello::decode(&hello[..length]).is_err());
    }
    for length in 0..welcome.len() {
        assert!(Welcome::decode(&welcome[..length]).is_err());
    }
    assert_eq!(Hello::decode(&[&hello[..], b"later"].concat()).unwrap(), Hello::decode(&hello).unwrap());
    assert_eq!(Welcome::decode(&[&welcome[..], b"later"].concat()).unwrap(), Welcome::decode(&welcome).unwrap());
    for seed in 0..2000 {
        let noise = pattern(seed as usize % 200, seed);
        if let Ok(welcome) = Welcome::decode(&noise) {
            assert!(welcome.max_request <= 32 << 20 && welcome.size <= i64::MAX as u64);
        }
        if let Ok(hello) = Hello::decode(&noise) {
            assert!(hello.export.len() <= 255);
        }
    }
}
