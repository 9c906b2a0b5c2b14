//! 114: regions in S3, on a real server of its protocol.
//!
//! Credentials come from the environment, so each test runs in a process of its own that has them.

#![cfg(feature = "s3")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use r3map_core::backend::{self, Operation};
use r3map_core::buffer::Buffer;
use r3map_core::cancel::Limit;
use r3map_core::{BackendOptions, Code, Copy, Mount};

mod backends;
mod conformance;
mod servers;
#[path = "../../tests/skip.rs"]
mod skip;

use backends::{Kind, Scratch, all, open, read};
use servers::{S3, SOON};

const MIB: u64 = 1 << 20;
fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 | 1).collect()
}

#[test]
fn s3_passes_the_suite() {
    if !S3::is_alone("s3_passes_the_suite", &S3::CREDENTIALS) {
        return;
    }
    let s3 = Arc::new(S3::start());
    let odd = s3.clone();
    let name = |at: &Path| format!("regions/{}", at.file_name().unwrap().to_str().unwrap());
    let kinds = [
        Kind::new("s3", true, move |at, size| s3.url(&name(at), &format!("size={size}&create=true"))).slow(),
        Kind::new("s3 of odd chunks", true, move |at, size| {
            odd.url(&name(at), &format!("size={size}&chunk=50000&create=true"))
        })
        .slow(),
    ];
    conformance::a_fresh_region_is_zeros_of_exactly_the_size_asked_for(&kinds);
    conformance::what_a_backend_says_of_itself_is_within_bounds_and_names_no_secret(&kinds);
    conformance::random_writes_zeroes_and_reads_agree_with_a_plain_array_at_every_offset_and_length(&kinds);
    conformance::what_was_synced_is_there_when_it_is_opened_again(&kinds);
    conformance::an_access_outside_the_region_is_refused_and_changes_nothing(&kinds);
    conformance::each_byte_of_overlapping_writes_zeroes_and_reads_is_one_that_somebody_wrote(&kinds);
    conformance::requests_and_calls_do_the_same(&kinds);
}

#[test]
fn objects_are_named_as_the_go_library_names_them_and_one_object_is_read_by_ranges() {
    let test = "objects_are_named_as_the_go_library_names_them_and_one_object_is_read_by_ranges";
    if !S3::is_alone(test, &S3::CREDENTIALS) {
        return;
    }
    let s3 = S3::start();
    let error = open(&s3.url("none/x", "size=1MiB")).err().unwrap();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    let backend = open(&s3.url("store/some/prefix", "size=150000&chunk=64KiB&create=true")).unwrap();
    backend.write_at(&pattern(65536), 65536).unwrap();
    assert_eq!(std::fs::read(s3.object("store", "some/prefix-65536")).unwrap(), pattern(65536));
    assert!(!s3.object("store", "some/prefix-0").exists());
    std::fs::write(s3.object("store", "some/prefix-131072"), b"as the Go library leaves it").unwrap();
    assert_eq!(read(&backend, 131_075, 10), b"the Go lib");
    assert_eq!(read(&backend, 131_099, 3), [0; 3]);
    std::fs::write(s3.object("store", "some/prefix-0"), b"short").unwrap();
    assert_eq!(backend.read_at(&mut [0; 10], 0).unwrap_err().code(), Code::Corrupt);
    backend.zero_at(0, 65536).unwrap();
    assert!(!s3.object("store", "some/prefix-0").exists());

    // A region of several chunks is copied to another, which is made.
    let to = s3.url("store/copy", "chunk=4KiB");
    Copy::open(&s3.url("store/some/prefix", "size=150000&chunk=64KiB"), &to, &BackendOptions::default())
        .unwrap()
        .run(None)
        .unwrap();
    assert!(all(&open(&format!("{to}&size=150000")).unwrap()) == all(&backend));

    let object = open(&s3.url("store/some/prefix-65536", "object=true")).unwrap();
    assert!(object.info().read_only && object.info().identity.is_some());
    assert!(all(&object) == pattern(65536));
    assert_eq!(read(&object, 1000, 10), pattern(1010)[1000..]);
    assert_eq!(object.write_at(b"x", 0).unwrap_err().code(), Code::ReadOnly);
    backend.write_at(&[9; 65536], 65536).unwrap();
    assert_eq!(object.read_at(&mut [0; 10], 0).unwrap_err().code(), Code::Corrupt);
}

#[test]
fn s3_that_throttles_or_goes_away_is_waited_for_within_the_deadline() {
    if !S3::is_alone("s3_that_throttles_or_goes_away_is_waited_for_within_the_deadline", &S3::CREDENTIALS) {
        return;
    }
    let mut s3 = S3::start();
    let url = s3.url("store/x", "size=1MiB&chunk=64KiB&create=true");
    let backend = open(&url).unwrap();
    let mount = Mount::options().deadline(SOON).open(backend.clone()).unwrap();
    mount.write_at(&pattern(MIB), 0).unwrap();
    mount.sync().unwrap();
    s3.kill();
    let ask = |length| Operation::Read { offset: 0, buffer: Buffer::new(length) };
    for length in [100, 65536, 200_000] {
        let limit = Limit::within(Duration::from_millis(500));
        let error = backend::call(&backend, ask(length), &limit, "read").err().unwrap();
        assert_eq!(error.code(), Code::Disconnected, "{error}");
        assert!(error.message().contains("refused"), "{error}");
    }
    // What is written meanwhile arrives once it is back.
    mount.write_at(&[7; 100_000], 5).unwrap();
    let reader = std::thread::spawn(move || backend::call(&backend, ask(10), &Limit::within(SOON), "read").map(drop));
    s3.restart(&[]);
    reader.join().unwrap().unwrap();
    mount.close().unwrap();
    let mut expected = pattern(MIB);
    expected[5..100_005].fill(7);
    assert!(all(&open(&url).unwrap()) == expected);

    let refused = Arc::new(AtomicUsize::new(3));
    let url = S3::url_at(servers::that_throttles(s3.port, refused.clone()), "store/x", "size=1MiB&chunk=64KiB");
    let throttled = open(&url).unwrap();
    // More connections than one, some of which are refused.
    refused.store(5, Ordering::SeqCst);
    assert!(all(&throttled) == expected);
    assert!(refused.load(Ordering::SeqCst) < 5, "nothing was refused");
    refused.store(usize::MAX, Ordering::SeqCst);
    let error = open(&url).err().unwrap();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(error.message().contains("SlowDown"), "{error}");
}

#[test]
fn credentials_of_a_profile_are_read_again_when_they_change() {
    let scratch = Scratch::new();
    let file = scratch.path().join("credentials");
    let write = |file: &Path, secret: &str| {
        let other = file.with_extension("new");
        let text = format!(
            "[default]\naws_access_key_id=x\n[mine]\naws_access_key_id=someone\naws_secret_access_key={secret}\n"
        );
        std::fs::write(&other, text).unwrap();
        std::fs::rename(other, file).unwrap();
    };
    write(&file, "the-right-one");
    let environment =
        [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), ("AWS_PROFILE", "mine"), ("AWS_REGION", "us-east-1")];
    if !S3::is_alone("credentials_of_a_profile_are_read_again_when_they_change", &environment) {
        return;
    }
    let file = std::env::var("AWS_SHARED_CREDENTIALS_FILE").unwrap();
    let file = Path::new(&file);
    let s3 = S3::start();
    let backend = open(&s3.url("store/x", "size=1MiB&create=true")).unwrap();
    backend.write_at(&pattern(MIB), 0).unwrap();
    write(file, "a-wrong-one");
    let error = backend.read_at(&mut [0; 10], 0).unwrap_err();
    assert_eq!(error.code(), Code::NotAuthenticated, "{error}");
    assert!(!error.message().contains("wrong-one"), "{error}");
    assert_eq!(open(&s3.url("store/x", "size=1MiB")).err().unwrap().code(), Code::NotAuthenticated);
    write(file, "the-right-one");
    assert!(all(&backend) == pattern(MIB));
}
