//! 116: a region on a tape. A plain file stands for one; no real drive was tried.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use r3map_core::{Backend, BackendOptions, Code, Mount};

mod backends;
mod faults;

use backends::{Random, Scratch, all, open, read};

/// What a tape of chunks of 512 bytes has: a top of 4096 bytes, then records of 1024.
const TOP: usize = 4096;
const RECORD: usize = 1024;
const SMALL: &str = "size=2500&chunk=512";

fn url(at: &Path, parameters: &str) -> String {
    format!("tape://{}?{parameters}", at.display())
}

/// A tape of a few records, and what the region is after each of them. All but the last two are synced.
fn small(at: &Path) -> Vec<Vec<u8>> {
    let backend = open(&url(at, SMALL)).unwrap();
    let mut states = vec![vec![0; 2500]];
    for (step, chunk) in [0, 4, 1, 0, 2, 9, 1, 4].into_iter().enumerate() {
        let mut state = states.last().unwrap().clone();
        // There is no tenth chunk: zeros for the first two.
        match chunk {
            9 => {
                state[..1024].fill(0);
                backend.zero_at(0, 1024).unwrap();
            }
            _ => {
                let range = chunk * 512..(chunk * 512 + 512).min(2500);
                state[range.clone()].fill(step as u8 + 1);
                backend.write_at(&state[range.clone()], range.start as u64).unwrap();
            }
        }
        states.push(state);
        if step == 5 {
            backend.sync().unwrap();
        }
    }
    states
}

#[test]
fn a_tape_that_ends_anywhere_is_what_it_was_at_some_moment_and_never_before_its_last_sync() {
    let scratch = Scratch::new();
    let (whole, cut) = (scratch.path().join("whole"), scratch.path().join("cut"));
    let states = small(&whole);
    let bytes = fs::read(&whole).unwrap();
    assert_eq!(bytes.len(), TOP + 8 * RECORD);
    for length in TOP..=bytes.len() {
        fs::write(&cut, &bytes[..length]).unwrap();
        let records = (length - TOP) / RECORD;
        if records < 6 {
            let error = open(&url(&cut, "")).err().unwrap();
            assert!(error.code() == Code::Corrupt && error.message().contains("of 6 records"), "{length}: {error}");
            continue;
        }
        let backend = open(&url(&cut, "")).unwrap();
        assert!(all(&backend) == states[records], "{length}");
        // What comes after the cut is as good as ever.
        if length % 101 == 0 {
            backend.write_at(b"after", 1000).unwrap();
            backend.close().unwrap();
            let mut expected = states[records].clone();
            expected[1000..1005].copy_from_slice(b"after");
            assert!(all(&open(&url(&cut, "")).unwrap()) == expected, "{length}");
        }
    }
    for length in (0..TOP).step_by(61) {
        fs::write(&cut, &bytes[..length]).unwrap();
        let wanted = if length == 0 { Code::InvalidArgument } else { Code::Corrupt };
        assert_eq!(open(&url(&cut, "")).err().map(|error| error.code()), Some(wanted), "{length}");
    }
}

#[test]
fn what_a_power_loss_tore_behind_the_last_sync_leaves_the_state_before_it() {
    let scratch = Scratch::new();
    let (whole, torn) = (scratch.path().join("whole"), scratch.path().join("torn"));
    let states = small(&whole);
    let bytes = fs::read(&whole).unwrap();
    for (record, state) in [(6, &states[6]), (7, &states[7])] {
        // A sector that never was written, of the head or the bytes.
        for sector in [0, 1] {
            let at = TOP + record * RECORD + sector * 512;
            let mut bytes = bytes.clone();
            bytes[at..at + 64].fill(0);
            fs::write(&torn, &bytes).unwrap();
            assert!(all(&open(&url(&torn, "")).unwrap()) == *state, "record {record}, sector {sector}");
            assert_eq!(fs::metadata(&torn).unwrap().len() as usize, TOP + record * RECORD, "the rest is gone for good");
        }
    }
}

#[test]
fn a_byte_that_flips_anywhere_gives_the_right_bytes_or_corrupt_and_never_older_ones() {
    let scratch = Scratch::new();
    let (whole, index) = (scratch.path().join("whole"), scratch.path().join("index"));
    let last = small(&whole).pop().unwrap();
    let with_index = url(&whole, &format!("index={}", index.display()));
    let backend = open(&with_index).unwrap();
    backend.sync().unwrap();
    backend.close().unwrap();
    assert!(index.exists());
    let file = fs::File::options().write(true).open(&whole).unwrap();
    let bytes = fs::read(&whole).unwrap();
    let (mut refused, mut wrong, mut right) = (0, 0, 0);
    for at in 0..bytes.len() {
        // What lies between is nobody's.
        if at < TOP && at % 1024 >= 64 {
            continue;
        }
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
        let url = if at % 3 == 0 { with_index.clone() } else { url(&whole, "") };
        match open(&url) {
            Err(error) => {
                assert!(error.code() == Code::Corrupt && at < 64, "{at}: {error}");
                refused += 1;
            }
            Ok(backend) => {
                for chunk in 0..5 {
                    let range = chunk * 512..(chunk * 512 + 512).min(2500);
                    let mut buffer = vec![0xEE; range.len()];
                    match backend.read_at(&mut buffer, range.start as u64) {
                        Ok(()) => {
                            assert!(buffer == last[range], "byte {at}, chunk {chunk}");
                            right += 1;
                        }
                        Err(error) => {
                            assert_eq!(error.code(), Code::Corrupt, "{at}: {error}");
                            wrong += 1;
                        }
                    }
                }
                backend.close().unwrap();
            }
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert!(refused == 64 && wrong > 1000 && right > 10_000, "{refused} {wrong} {right}");
}

#[test]
fn damage_is_mended_by_writing_the_chunk_and_a_part_of_it_is_refused() {
    let scratch = Scratch::new();
    let at = scratch.path().join("tape");
    let last = small(&at).pop().unwrap();
    let backend = open(&url(&at, "")).unwrap();
    backend.sync().unwrap();
    let file = fs::File::options().write(true).open(&at).unwrap();
    // The bytes of chunk 2, under its open reader; then the head of a record about another.
    file.write_all_at(b"rot", (TOP + 4 * RECORD + 100) as u64).unwrap();
    assert_eq!(backend.read_at(&mut [0; 5], 1030).unwrap_err().code(), Code::Corrupt);
    assert_eq!(backend.write_at(b"part", 1030).unwrap_err().code(), Code::Corrupt);
    assert_eq!(backend.zero_at(1030, 4).unwrap_err().code(), Code::Corrupt);
    backend.write_at(&[7; 512], 1024).unwrap();
    backend.sync().unwrap();
    backend.close().unwrap();
    file.write_all_at(b"rot", (TOP + 6 * RECORD) as u64).unwrap();
    let backend = open(&url(&at, "")).unwrap();
    let codes: Vec<_> = (0..5).map(|chunk| backend.read_at(&mut [0], chunk * 512).err().map(|e| e.code())).collect();
    let corrupt = Some(Code::Corrupt);
    assert_eq!(codes, [corrupt, corrupt, None, corrupt, None], "what was written since is known to be right");
    assert_eq!((read(&backend, 1024, 512), read(&backend, 2048, 452)), (vec![7; 512], last[2048..].to_vec()));
    backend.zero_at(0, 1024).unwrap();
    backend.write_at(&[8; 512], 1536).unwrap();
    backend.close().unwrap();
    let mut expected = last;
    expected[..1024].fill(0);
    expected[1024..1536].fill(7);
    expected[1536..2048].fill(8);
    assert!(all(&open(&url(&at, "")).unwrap()) == expected);
}

#[test]
fn an_index_that_is_lost_damaged_old_or_anothers_loses_nothing_and_a_right_one_is_used() {
    let scratch = Scratch::new();
    let (at, index, other) = (scratch.path().join("tape"), scratch.path().join("index"), scratch.path().join("other"));
    let url = |at: &Path| url(at, &format!("size=300000&chunk=4KiB&index={}", index.display()));
    let (mut random, mut expected) = (Random(11), vec![0; 300_000]);
    let mut old = Vec::new();
    for round in 0..40u8 {
        let backend = open(&url(&at)).unwrap();
        assert!(all(&backend) == expected, "round {round}");
        for _ in 0..6 {
            let offset = random.below(300_000);
            let length = random.below((300_000 - offset).min(20_000));
            let range = offset as usize..(offset + length) as usize;
            match random.below(3) {
                0 => {
                    expected[range].fill(0);
                    backend.zero_at(offset, length).unwrap();
                }
                _ => {
                    expected[range].fill(round | 1);
                    backend.write_at(&vec![round | 1; length as usize], offset).unwrap();
                }
            }
        }
        if round % 3 > 0 {
            backend.sync().unwrap();
        }
        backend.close().unwrap();
        let bytes = fs::read(&index).unwrap_or_default();
        match random.below(6) {
            0 => fs::remove_file(&index).unwrap_or_default(),
            1 => fs::write(&index, &bytes[..bytes.len() / 2]).unwrap(),
            2 => fs::write(&index, &old).unwrap(),
            3 => {
                drop(open(&url(&other)).and_then(|other| other.write_at(b"x", 0).and(other.sync()).and(other.close())))
            }
            _ => old = bytes,
        }
    }
    let backend = open(&url(&at)).unwrap();
    for (chunk, byte) in [(3, 1), (3, 2), (0, 3)] {
        expected[chunk * 4096..][..4096].fill(byte);
        backend.write_at(&[byte; 4096], chunk as u64 * 4096).unwrap();
    }
    backend.sync().unwrap();
    backend.close().unwrap();
    // It spares reading the heads: one of a copy that nobody reads any more may be damaged.
    let damaged = fs::metadata(&at).unwrap().len() - 3 * (4096 + 512);
    fs::File::options().write(true).open(&at).unwrap().write_all_at(b"rot", damaged).unwrap();
    assert!(all(&open(&url(&at)).unwrap()) == expected);
    // Without it nobody knows of which chunk that one was.
    fs::remove_file(&index).unwrap();
    let backend = open(&url(&at)).unwrap();
    let right = (0..73).filter(|chunk| backend.read_at(&mut [0], chunk * 4096).is_ok());
    assert_eq!(right.collect::<Vec<_>>(), [0, 3]);
}

#[test]
fn what_is_no_tape_or_another_one_is_refused_and_one_at_a_time_has_it() {
    let scratch = Scratch::new();
    let at = scratch.path().join("tape");
    let code = |url: String| open(&url).err().map(|error| error.code());
    assert_eq!(code(url(&at, "")), Some(Code::NotFound));
    assert!(!at.exists(), "without a size nothing is made");
    let backend = open(&url(&at, "size=1MiB")).unwrap();
    let info = backend.info();
    assert!(info.identity.is_some() && info.managed_by_default && info.local && info.chunk_size == 65536);
    assert_eq!(code(url(&at, "")), Some(Code::Busy));
    backend.close().unwrap();
    assert_eq!(backend.read_at(&mut [0], 0).unwrap_err().code(), Code::Closed);
    assert_eq!(code(url(&at, "")), None);
    let invalid = Some(Code::InvalidArgument);
    for wrong in ["size=2MiB", "chunk=4KiB", "index=here", "sizes=1", "size=1MiB&chunk=32MiB"] {
        assert_eq!(code(url(&at, wrong)), invalid, "{wrong}");
    }
    for chunk in ["1", "17MiB", "1GiB"] {
        assert_eq!(code(url(&scratch.path().join("fresh"), &format!("size=1MiB&chunk={chunk}"))), invalid, "{chunk}");
    }
    fs::write(scratch.path().join("text"), "no tape at all").unwrap();
    assert_eq!(code(url(&scratch.path().join("text"), "size=1MiB")), Some(Code::Corrupt));
    assert_eq!(fs::read(scratch.path().join("text")).unwrap(), b"no tape at all", "and it is left as it is");
    assert_eq!(code(url(scratch.path(), "size=1MiB")), invalid, "a directory");
    let error = open("tape:///dev/null?size=1MiB").err().unwrap();
    assert!(error.code() == Code::InvalidArgument && error.message().contains("tape drive"), "{error}");
}

#[test]
fn what_was_never_written_is_known_to_be_zeros_and_a_zeroed_terabyte_is_one_record() {
    let scratch = Scratch::new();
    let at = scratch.path().join("tape");
    let backend = open(&url(&at, "size=1TiB")).unwrap();
    backend.write_at(b"x", 5 << 30).unwrap();
    let zeros = |extents: Vec<r3map_core::backend::Extent>| -> Vec<_> {
        extents.into_iter().map(|extent| (extent.length, extent.zero)).collect()
    };
    let all = zeros(backend.extents(1, (1 << 40) - 1, 9).unwrap());
    assert_eq!(all, [((5 << 30) - 1, true), (65536, false), ((1 << 40) - (5 << 30) - 65536, true)]);
    assert_eq!(backend.extents(5 << 30, 1 << 20, 1).unwrap().len(), 1);
    backend.zero_at(0, 1 << 40).unwrap();
    assert_eq!(zeros(backend.extents(0, 1 << 40, 9).unwrap()), [(1 << 40, true)]);
    backend.zero_at(0, 1 << 40).unwrap();
    assert!(fs::metadata(&at).unwrap().len() < 3 * 66_048 + TOP as u64, "zeros of zeros are nothing");
    assert_eq!(read(&backend, 5 << 30, 1), [0]);
}

#[test]
fn a_managed_mount_of_a_tape_keeps_what_it_synced() {
    let scratch = Scratch::new();
    let url = url(&scratch.path().join("tape"), "size=3MiB");
    let mount = Mount::options().open_url(&url, &BackendOptions::default()).unwrap();
    let bytes: Vec<u8> = (0..3 << 20).map(|at| (at % 251) as u8).collect();
    mount.write_at(&bytes, 0).unwrap();
    mount.sync().unwrap();
    mount.write_at(b"more", 70_000).unwrap();
    mount.close().unwrap();
    drop(mount);
    let mut expected = bytes;
    expected[70_000..70_004].copy_from_slice(b"more");
    assert!(all(&open(&url).unwrap()) == expected);
}

const URL: &str = "R3MAP_TEST_URL";
const WORDS: u64 = 40_000;

/// What a round writes: the same for the same round.
fn writes(round: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut random = Random(round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    (0..32).map(move |_| (random.below(WORDS), random.below(u64::MAX)))
}

fn write(backend: &Arc<dyn Backend>, round: u64) {
    for (word, value) in writes(round) {
        backend.write_at(&value.to_le_bytes(), word * 8).unwrap();
    }
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "started by another test"]
fn appends_until_it_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let backend = open(&url).unwrap();
    std::thread::spawn(|| {
        faults::until_the_parent_is_gone();
        std::process::exit(0);
    });
    let first = u64::from_le_bytes(read(&backend, WORDS * 8, 8).try_into().unwrap());
    for round in first + 1.. {
        write(&backend, round);
        backend.write_at(&round.to_le_bytes(), WORDS * 8).unwrap();
        if round % 3 == 0 {
            backend.sync().unwrap();
            println!("synced {round}");
        }
    }
}

#[test]
fn a_process_that_is_killed_amid_its_writes_leaves_what_it_had_written_in_order() {
    let scratch = Scratch::new();
    let tape = scratch.path().join("tape");
    let url = url(&tape, &format!("size={}&chunk=4KiB&index={}/index", WORDS * 8 + 8, scratch.path().display()));
    let mut expected = vec![0; WORDS as usize * 8];
    let mut done = 0;
    for run in 0..6u64 {
        let mut child = faults::again("appends_until_it_is_killed");
        let mut child = child.env(URL, &url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut synced = 0;
        for _ in 0..=run {
            let round = lines.find_map(|line| line.strip_prefix("synced ").map(|round| round.parse().unwrap()));
            synced = round.expect("it goes on until it is killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let backend = open(&url).unwrap();
        let round = u64::from_le_bytes(read(&backend, WORDS * 8, 8).try_into().unwrap());
        assert!(round >= synced && synced > done, "run {run}: {round} of {synced}");
        for round in done + 1..=round {
            for (word, value) in writes(round) {
                expected[word as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
            }
        }
        // Of the round under way, its first so many writes.
        let found = read(&backend, 0, WORDS as usize * 8);
        let mut under_way = writes(round + 1);
        while found != expected {
            let (word, value) = under_way.next().unwrap_or_else(|| panic!("run {run}: round {round} and some"));
            expected[word as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        done = round;
    }
}
