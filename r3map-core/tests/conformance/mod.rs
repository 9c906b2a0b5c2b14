//! What every backend keeps to, whatever its kind: t110 holds local stores to it, t112 network stores on real servers.

#![allow(dead_code)] // No test file uses all of it.

use std::sync::Arc;

use r3map_core::backend::{Completion, Operation, Priority, Reply, Request};
use r3map_core::buffer::Buffer;
use r3map_core::{Backend, Code};

use crate::backends::{Kind, Random, all, read, stores};

/// No multiple of a page, a chunk or a word.
pub const ODD: u64 = 3 * 65536 + 4097;

pub fn a_fresh_region_is_zeros_of_exactly_the_size_asked_for(kinds: &[Kind]) {
    for size in [0, 1, 4095, 65536, ODD] {
        for store in stores(kinds, size) {
            let backend = store.open();
            assert_eq!(backend.info().size, size, "{}", store.kind.name);
            assert!(all(&backend).iter().all(|byte| *byte == 0), "{}", store.kind.name);
        }
    }
}

pub fn what_a_backend_says_of_itself_is_within_bounds_and_names_no_secret(kinds: &[Kind]) {
    for store in stores(kinds, ODD) {
        let backend = store.open();
        let info = backend.info();
        let name = &store.kind.name;
        assert!(info.chunk_size.is_power_of_two(), "{name}");
        assert!((4 << 10..=32 << 20).contains(&info.chunk_size), "{name}");
        assert!(info.alignment.is_power_of_two() && info.alignment <= 4096, "{name}");
        assert!(info.max_request >= 4096 && info.concurrency >= 1, "{name}");
        assert!(!info.read_only && !info.name.is_empty(), "{name}");
    }
}

pub fn random_writes_zeroes_and_reads_agree_with_a_plain_array_at_every_offset_and_length(kinds: &[Kind]) {
    let seed = 0x9E37_79B9_7F4A_7C15;
    for store in stores(kinds, ODD) {
        let mut random = Random(seed);
        let mut backend = store.open();
        let mut expected = vec![0; ODD as usize];
        for step in 0..1500 / store.kind.slowness {
            let what = format!("{}: seed {seed:#x}, step {step}", store.kind.name);
            let offset = random.below(ODD + 1);
            // Short ones, ones that cross chunks, and now and then all the rest.
            let most = [64, 9000, 150_000, ODD][random.below(4) as usize].min(ODD - offset);
            let length = random.below(most + 1);
            let range = offset as usize..(offset + length) as usize;
            match random.below(10) {
                0..4 => {
                    expected[range.clone()].fill(step as u8 | 1);
                    backend.write_at(&expected[range], offset).expect(&what);
                }
                4..6 => {
                    expected[range].fill(0);
                    backend.zero_at(offset, length).expect(&what);
                }
                6..9 => assert!(read(&backend, offset, length as usize) == expected[range], "{what}"),
                _ if store.kind.keeps => {
                    // Some let in one at a time.
                    backend.close().expect(&what);
                    backend = store.open();
                }
                _ => backend.sync().expect(&what),
            }
        }
        assert!(all(&backend) == expected, "{}: seed {seed:#x}", store.kind.name);
    }
}

pub fn what_was_synced_is_there_when_it_is_opened_again(kinds: &[Kind]) {
    for store in stores(kinds, ODD).filter(|store| store.kind.keeps) {
        let backend = store.open();
        let bytes: Vec<u8> = (0..ODD).map(|at| (at % 251) as u8).collect();
        backend.write_at(&bytes, 0).unwrap();
        backend.zero_at(60_000, 80_000).unwrap();
        backend.sync().unwrap();
        backend.close().unwrap();
        drop(backend);
        let mut expected = bytes;
        expected[60_000..140_000].fill(0);
        assert!(all(&store.open()) == expected, "{}", store.kind.name);
    }
}

pub fn an_access_outside_the_region_is_refused_and_changes_nothing(kinds: &[Kind]) {
    for store in stores(kinds, ODD) {
        let backend = store.open();
        backend.write_at(&[7; 10], ODD - 10).unwrap();
        for (offset, length) in [(ODD - 9, 10), (ODD, 1), (u64::MAX, 1), (u64::MAX - 4, 10), (1 << 62, 10)] {
            let what = format!("{}: {length} at {offset}", store.kind.name);
            let mut buffer = vec![0; length];
            assert_eq!(backend.read_at(&mut buffer, offset).unwrap_err().code(), Code::OutOfRange, "{what}");
            assert_eq!(backend.write_at(&buffer, offset).unwrap_err().code(), Code::OutOfRange, "{what}");
            assert_eq!(backend.zero_at(offset, length as u64).unwrap_err().code(), Code::OutOfRange, "{what}");
        }
        assert_eq!(read(&backend, ODD - 10, 10), [7; 10], "{}", store.kind.name);
        backend.read_at(&mut [], ODD).unwrap();
        backend.write_at(&[], ODD).unwrap();
        backend.zero_at(ODD, 0).unwrap();
    }
}

pub fn threads_that_write_disjoint_ranges_of_the_same_pages_and_chunks_lose_nothing(kinds: &[Kind]) {
    const THREADS: usize = 4;
    for store in stores(kinds, ODD) {
        let backend = store.open();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let backend = &backend;
                scope.spawn(move || {
                    for at in (thread * 31..ODD as usize - 31).step_by(THREADS * 31) {
                        backend.write_at(&[thread as u8 + 1; 31], at as u64).unwrap();
                        if at % 5 == 0 {
                            backend.sync().unwrap();
                        }
                    }
                });
            }
        });
        for at in (0..ODD as usize - 31).step_by(31) {
            let thread = (at / 31 % THREADS) as u8;
            assert_eq!(read(&backend, at as u64, 31), [thread + 1; 31], "{} at {at}", store.kind.name);
        }
    }
}

pub fn each_byte_of_overlapping_writes_zeroes_and_reads_is_one_that_somebody_wrote(kinds: &[Kind]) {
    let size = 2 * 65536;
    for store in stores(kinds, size) {
        let backend = store.open();
        let times = 400 / store.kind.slowness;
        let known = |byte: &u8| *byte <= 3;
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let backend = &backend;
                scope.spawn(move || {
                    let mut random = Random(u64::from(thread) + 77);
                    for _ in 0..times {
                        let offset = random.below(size);
                        let length = random.below(size - offset + 1);
                        match thread {
                            0 => backend.zero_at(offset / 65536 * 65536, 65536).unwrap(),
                            1..3 => backend.write_at(&vec![thread; length as usize], offset).unwrap(),
                            _ => assert!(read(backend, offset, length as usize).iter().all(known)),
                        }
                    }
                });
            }
        });
        // What comes after all of them is theirs no more.
        backend.write_at(&vec![9; size as usize], 0).unwrap();
        assert!(all(&backend).iter().all(|byte| *byte == 9), "{}", store.kind.name);
    }
}

fn submit(backend: &Arc<dyn Backend>, operation: Operation) -> Reply {
    let (tell, told) = std::sync::mpsc::channel();
    let completion = Completion::new(move |outcome| tell.send(outcome).unwrap());
    backend.clone().submit(Request { operation, priority: Priority::Demand, deadline: None, completion });
    told.recv().unwrap().unwrap()
}

pub fn requests_and_calls_do_the_same(kinds: &[Kind]) {
    for store in stores(kinds, ODD) {
        let backend = store.open();
        let name = &store.kind.name;
        let write = Operation::Write { offset: 65_000, data: Buffer::copy_of(&[5; 2000]) };
        assert!(matches!(submit(&backend, write), Reply::Done), "{name}");
        assert!(matches!(submit(&backend, Operation::Zero { offset: 65_500, length: 100 }), Reply::Done), "{name}");
        assert!(matches!(submit(&backend, Operation::Sync), Reply::Done), "{name}");
        let mut expected = vec![5; 2000];
        expected[500..600].fill(0);
        assert_eq!(read(&backend, 65_000, 2000), expected, "{name}");
        match submit(&backend, Operation::Read { offset: 65_000, buffer: Buffer::new(2000) }) {
            Reply::Data(data) => assert_eq!(data[..], expected, "{name}"),
            _ => panic!("{name}: a read brought no bytes"),
        }
    }
}
