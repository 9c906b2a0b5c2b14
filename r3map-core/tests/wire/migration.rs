//! Golden frames of a migration: bytes written down once, made without this library.

use r3map_core::Code;
use r3map_core::migration::runs::Runs;
use r3map_core::migration::{Dirty, Message, Moved, Vote};
use r3map_core::wire::greeting::Moving;
use r3map_core::wire::{HEADER_LENGTH, Header, Hello, Kind, Welcome};

use crate::support::pattern;

const TRACK: &str = "\
    72336d574000000000000000000000000000000000000000000000000000000030000000d611e4de000000005baad44a\
    404142434445464748494a4b4c4d4e4f101112131415161718191a1b1c1d1e1f87d61200000000000600000000000000";
const ROUND: &str = "\
    72336d574100000000000000000000000000000000000000000000000000000018000000fa1e9cf4000000000a72dc93\
    202122232425262728292a2b2c2d2e2f0400000000000000";
const FINALIZE: &str = "\
    72336d574200000000000000000000000000000000000000000000000000000028000000bd96491400000000eae48e4d\
    202122232425262728292a2b2c2d2e2f070000000000000002000000000000000400000000000000";
const STATUS: &str = "\
    72336d5743000000000000000000000000000000000000000000000000000000200000002a01c7fe00000000ae1ebbc2\
    202122232425262728292a2b2c2d2e2f07000000000000000200000000000000";
const TAKEN: &str = "\
    72336d5744000000000000000000000000000000000000000000000000000000200000002a01c7fe000000009d9823d8\
    202122232425262728292a2b2c2d2e2f07000000000000000200000000000000";
const COMPLETE: &str = "\
    72336d5745000000000000000000000000000000000000000000000000000000200000002a01c7fe00000000b68de305\
    202122232425262728292a2b2c2d2e2f07000000000000000200000000000000";
const TRACKING: &str = "\
    72336d57500000000000000000000000000000000000000000000000000000004000000085885a350000000007259f71\
    404142434445464748494a4b4c4d4e4f202122232425262728292a2b2c2d2e2f101112131415161718191a1b1c1d1e1f\
    87d61200000000000600000000000000";
const DIRTY: &str = "\
    72336d575100000000000000000000000000000000000000000000000000000022000000404a509500000000f362374f\
    202122232425262728292a2b2c2d2e2f050000000000000006000000020301950204";
const PENDING: &str = "\
    72336d5752000000000000000000000000000000000000000000000000000000200000002a01c7fe00000000884344fe\
    202122232425262728292a2b2c2d2e2f07000000000000000200000000000000";
const GIVEN: &str = "\
    72336d575300000000000000000000000000000000000000000000000000000037000000fcbfe820000000007bde253a\
    202122232425262728292a2b2c2d2e2f0700000000000000020000000000000000000000060000000203019502040500\
    00007374617465";
const GIVEN_ALL: &str = "\
    72336d57530000000000000000000000000000000000000000000000000000002c000000766a420c0000000079c623d8\
    202122232425262728292a2b2c2d2e2f07000000000000000200000000000000010000000000000000000000";
const ABORTED: &str = "\
    72336d57540000000000000000000000000000000000000000000000000000003700000028cad4a200000000601a0834\
    202122232425262728292a2b2c2d2e2f0700000000000000020000000000000006000000000000000100000007000000\
    6e6f74206e6f77";
const DRAINED: &str = "\
    72336d5755000000000000000000000000000000000000000000000000000000200000002a01c7fe00000000bbc5dce4\
    202122232425262728292a2b2c2d2e2f07000000000000000200000000000000";
const REFUSED: &str = "\
    72336d57560000000000000000000000000000000000000000000000000000001d0000007891554400000000238900fb\
    404142434445464748494a4b4c4d4e4f060000000500000074616b656e";

/// Pages of the region in these messages.
const PAGES: u64 = 302;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn numbered(first: u8) -> [u8; 16] {
    std::array::from_fn(|index| first + index as u8)
}

const HELLO: &str = "\
    72336d57010000000000000000000000000000000000000000000000000000004500000021f7a185000000004e1d1a5a\
    01000100010001000100000000000000000102030405060708090a0b0c0d0e0f0300000000000000050004006d6f6465\
    6c74657374303132333435363738393a3b3c3d3e3f";
const WELCOME: &str = "\
    72336d570200000000000000000000000000000000000000000000000000000064000000d802bec300000000143eabf4\
    010000000000000001000000000000001027000000000000000004000100000000000002000000001011121314151617\
    18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f070000000000000002000000881300000000000010070000\
    00000000";
const DIGEST: &str = "\
    72336d571400000005000000000000000000010000000000a086010000000000000000000000000000000000027952d1";
const DIGESTS: &str = "\
    72336d572200000005000000000000000000010000000000a08601000000000040000000eb366dfb0000000092a386cc\
    000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f\
    303132333435363738393a3b3c3d3e3f";

fn golden() -> Vec<(&'static str, Message)> {
    let (attempt, session) = (numbered(0x40), numbered(0x20));
    let region = Moved { identity: numbered(0x10), size: 1_234_567, epoch: 6 };
    let vote = Vote { session, epoch: 7, ballot: 2 };
    let pages: Runs = [3..4, 281..285].into_iter().collect();
    let reason = "not now".to_owned();
    vec![
        (TRACK, Message::Track { attempt, region }),
        (ROUND, Message::Round { session, acknowledged: 4 }),
        (FINALIZE, Message::Finalize { vote, acknowledged: 4 }),
        (STATUS, Message::Status { vote }),
        (TAKEN, Message::Taken { vote }),
        (COMPLETE, Message::Complete { vote }),
        (TRACKING, Message::Tracking { attempt, session, region }),
        (DIRTY, Message::Dirty { session, round: 5, pages: pages.clone() }),
        (PENDING, Message::Pending { vote }),
        (GIVEN, Message::Given { vote, dirty: Dirty::Pages(pages), payload: b"state".to_vec() }),
        (GIVEN_ALL, Message::Given { vote, dirty: Dirty::All, payload: Vec::new() }),
        (ABORTED, Message::Aborted { vote, epoch: 6, tracking: true, reason }),
        (DRAINED, Message::Drained { vote }),
        (REFUSED, Message::Refused { attempt, code: Code::Busy, reason: "taken".to_owned() }),
    ]
}

#[test]
fn messages_of_a_migration_are_the_golden_ones() {
    for (frame, message) in golden() {
        let frame = bytes(frame);
        let (header, payload) = frame.split_first_chunk::<HEADER_LENGTH>().unwrap();
        let decoded = Header::decode_migrating(header).unwrap();
        assert_eq!(decoded, Header::new(decoded.kind, 0).with_payload(payload));
        assert_eq!(Message::decode(decoded.kind, payload, PAGES).unwrap(), message);
        assert_eq!(message.encode(), (decoded, payload.to_vec()));
    }
}

#[test]
fn a_connection_on_which_nobody_agreed_to_migrate_knows_none_of_these_frames() {
    for (frame, _) in golden() {
        let header = *bytes(frame).first_chunk().unwrap();
        assert_eq!(Header::decode(&header).unwrap_err().code(), Code::Unsupported);
    }
}

#[test]
fn messages_cut_short_anywhere_or_filled_with_noise_are_refused_and_longer_ones_are_of_later_versions() {
    for (frame, message) in golden() {
        let frame = bytes(frame);
        let (header, payload) = frame.split_first_chunk::<HEADER_LENGTH>().unwrap();
        let kind = Header::decode_migrating(header).unwrap().kind;
        for length in 0..payload.len() {
            assert_eq!(Message::decode(kind, &payload[..length], PAGES).unwrap_err().code(), Code::Corrupt);
        }
        assert_eq!(Message::decode(kind, &[payload, b"later"].concat(), PAGES).unwrap(), message);
        for seed in 0..500 {
            // Whatever it is, it is answered without a panic and without pages that the region has not.
            if let Ok(Message::Dirty { pages, .. }) = Message::decode(kind, &pattern(seed as usize % 200, seed), PAGES)
            {
                assert!(pages.iter().all(|run| run.end <= PAGES));
            }
        }
    }
    assert_eq!(Message::decode(Kind::Read, &[], PAGES).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn a_message_that_claims_more_than_its_kind_allows_is_refused_before_anything_is_allocated() {
    let (header, payload) = golden()[7].1.encode();
    for (at, hostile) in [(24, u32::MAX), (24, (4 << 20) + 1), (24, 7)] {
        let mut payload = payload.clone();
        payload[at..at + 4].copy_from_slice(&hostile.to_le_bytes());
        assert_eq!(Message::decode(Kind::Dirty, &payload, PAGES).unwrap_err().code(), Code::Corrupt, "{hostile}");
    }
    // The same set for a smaller region reaches outside it.
    assert_eq!(Message::decode(Kind::Dirty, &payload, 284).unwrap_err().code(), Code::Corrupt);
    for (kind, payload) in [(Kind::Dirty, 5 << 20), (Kind::Track, 257), (Kind::Aborted, 8192), (Kind::Given, 33 << 20)]
    {
        let claim = Header { kind, payload, ..header };
        assert_eq!(Header::decode_migrating(&claim.encode()).unwrap_err().code(), Code::Corrupt, "{kind:?}");
    }
}

#[test]
fn greetings_of_a_migration_say_the_session_the_epoch_and_the_parts() {
    let numbered = |first: u8| std::array::from_fn(|index| first + index as u8);
    let hello = Hello {
        versions: (1, 1),
        features: 0,
        session: Some(numbered(48)),
        client: numbered(0),
        generation: 3,
        role: 1,
        write: true,
        export: "model".to_owned(),
        display: "test".to_owned(),
    };
    let frame = bytes(HELLO);
    assert_eq!(Hello::decode(&frame[HEADER_LENGTH..]).unwrap(), hello);
    assert_eq!(hello.encode(), frame[HEADER_LENGTH..]);
    let welcome = Welcome {
        version: 1,
        features: 0,
        written: None,
        moving: Some(Moving { epoch: 7, parts: vec![5000, 1808] }),
        size: 10_000,
        read_only: false,
        chunk_size: 256 << 10,
        alignment: 1,
        max_request: 32 << 20,
        identity: numbered(16),
        keeper: numbered(32),
    };
    let frame = bytes(WELCOME);
    assert_eq!(Welcome::decode(&frame[HEADER_LENGTH..]).unwrap(), welcome);
    assert_eq!(welcome.encode(), frame[HEADER_LENGTH..]);
    for parts in [vec![], vec![10_001], vec![5000, 5000], vec![u64::MAX, 1], vec![1; 257]] {
        let other = Welcome { moving: Some(Moving { epoch: 7, parts }), ..welcome.clone() };
        assert_eq!(Welcome::decode(&other.encode()).unwrap_err().code(), Code::Corrupt);
    }
}

#[test]
fn hashes_are_asked_for_and_answered_in_frames_as_long_as_their_range_says() {
    for (golden, kind) in [(DIGEST, Kind::Digest), (DIGESTS, Kind::Digests)] {
        let frame = bytes(golden);
        let (header, payload) = frame.split_first_chunk::<HEADER_LENGTH>().unwrap();
        let decoded = Header::decode_migrating(header).unwrap();
        assert_eq!(decoded, Header::new(kind, 5).about(65536, 100_000).with_payload(payload));
        assert_eq!(Header::decode(header).unwrap_err().code(), Code::Unsupported);
        for payload in [1, 63, 96, u32::MAX] {
            let claim = Header { payload, ..decoded };
            assert_eq!(Header::decode_migrating(&claim.encode()).unwrap_err().code(), Code::Corrupt);
        }
    }
}
