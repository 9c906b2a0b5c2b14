//! 120: a directory of chunks, as the Go library writes it and as it is made here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use r3map_core::{Backend, Code};

mod backends;

use backends::{Scratch, all, open, read};

fn url(at: &Path, parameters: &str) -> String {
    format!("dir://{}?{parameters}", at.display())
}

/// The names in a directory, sorted.
fn names(at: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A store as the Go library leaves it: whole chunks, nothing where nothing was written, no record.
fn written_by_go(at: &Path) -> Vec<u8> {
    let mut region = vec![0; 300_000];
    for (offset, byte) in [(0, 1), (131_072, 2), (262_144, 3)] {
        fs::write(at.join(offset.to_string()), [byte; 65536]).unwrap();
        let end = (offset + 65536).min(region.len());
        region[offset..end].fill(byte);
    }
    region
}

#[test]
fn a_store_written_by_the_go_library_opens_reads_and_writes_and_its_layout_stays() {
    let scratch = Scratch::new();
    let mut region = written_by_go(scratch.path());
    let backend = open(&url(scratch.path(), "size=300000")).unwrap();
    assert!(all(&backend) == region);
    assert_eq!(names(scratch.path()), ["0", "131072", "262144"], "reading creates nothing");
    backend.write_at(&[9; 40], 196_600).unwrap();
    region[196_600..196_640].fill(9);
    assert!(all(&backend) == region);
    backend.sync().unwrap();
    assert_eq!(names(scratch.path()), ["0", "131072", "196608", "262144"]);
    for name in names(scratch.path()) {
        assert_eq!(fs::metadata(scratch.path().join(&name)).unwrap().len(), 65536, "{name}");
    }
    assert_eq!(fs::read(scratch.path().join("196608")).unwrap()[..32], [9; 32]);
}

#[test]
fn a_chunk_that_is_missing_or_empty_is_zero_and_stays_as_it_is_when_read() {
    let scratch = Scratch::new();
    written_by_go(scratch.path());
    fs::remove_file(scratch.path().join("131072")).unwrap();
    fs::write(scratch.path().join("0"), []).unwrap();
    let backend = open(&url(scratch.path(), "size=300000")).unwrap();
    assert_eq!(read(&backend, 0, 262_144), vec![0; 262_144]);
    assert_eq!(names(scratch.path()), ["0", "262144"]);
    assert_eq!(fs::metadata(scratch.path().join("0")).unwrap().len(), 0);
    backend.write_at(b"x", 5).unwrap();
    assert_eq!(read(&backend, 0, 65536)[..8], *b"\0\0\0\0\0x\0\0");
}

#[test]
fn a_chunk_that_cannot_be_read_is_an_error_never_zeros() {
    let scratch = Scratch::new();
    written_by_go(scratch.path());
    fs::remove_file(scratch.path().join("131072")).unwrap();
    fs::create_dir(scratch.path().join("131072")).unwrap();
    std::os::unix::fs::symlink("nowhere", scratch.path().join("65536")).unwrap();
    std::os::unix::fs::symlink("0", scratch.path().join("196608")).unwrap();
    let backend = open(&url(scratch.path(), "size=300000")).unwrap();
    let error = backend.read_at(&mut [0; 10], 131_080).unwrap_err();
    assert_eq!(error.code(), Code::Io, "{error}");
    assert!(error.message().contains("131072: Is a directory"), "{error}");
    assert!(backend.write_at(&[0; 10], 131_080).is_err());
    assert!(backend.read_at(&mut [0; 10], 65_540).is_err(), "a link that leads nowhere");
    assert_eq!(read(&backend, 196_608, 1), [1], "one that leads to a chunk");
    assert_eq!(read(&backend, 262_144, 1), [3], "the others are read");
}

#[test]
fn a_file_that_lost_its_end_is_corrupt_and_the_last_one_may_be_short() {
    let scratch = Scratch::new();
    written_by_go(scratch.path());
    for name in ["0", "262144"] {
        fs::write(scratch.path().join(name), [4; 20_000]).unwrap();
    }
    let backend = open(&url(scratch.path(), "size=300000")).unwrap();
    assert_eq!(read(&backend, 100, 19_900), [4; 19_900], "what is there is read");
    for length in [19_901, 65_436, 70_000] {
        assert_eq!(backend.read_at(&mut vec![0; length], 100).unwrap_err().code(), Code::Corrupt, "{length}");
    }
    let error = backend.write_at(b"x", 3).unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    assert!(error.message().contains("ends after 20000 of 65536 bytes"), "{error}");
    assert_eq!(fs::metadata(scratch.path().join("0")).unwrap().len(), 20_000, "nor is it made to look whole");
    let mut last = vec![0; 300_000 - 262_144];
    last[..20_000].fill(4);
    assert_eq!(read(&backend, 262_144, last.len()), last);
    backend.write_at(b"end", 299_997).unwrap();
    assert_eq!(read(&backend, 299_990, 10), *b"\0\0\0\0\0\0\0end");
}

#[test]
fn a_directory_made_here_says_its_size_and_chunk_itself() {
    let scratch = Scratch::new();
    let at = scratch.path().join("store");
    let plain = format!("dir://{}", at.display());
    assert_eq!(open(&plain).err().unwrap().code(), Code::NotFound);
    assert!(!at.exists(), "without a size nothing is made");
    let backend = open(&url(&at, "size=1MiB&chunk=8KiB")).unwrap();
    backend.write_at(b"here", 8190).unwrap();
    backend.sync().unwrap();
    assert_eq!(names(&at), [".r3map", "0", "8192"]);
    let again = open(&plain).unwrap();
    assert_eq!((again.info().size, again.info().chunk_size), (1 << 20, 8 << 10));
    assert_eq!(read(&again, 8190, 4), *b"here");
    for wrong in ["size=2MiB", "chunk=4KiB", "size=1MiB&chunk=64KiB"] {
        assert_eq!(open(&url(&at, wrong)).err().unwrap().code(), Code::InvalidArgument, "{wrong}");
    }
    fs::write(at.join(".r3map"), "size many\n").unwrap();
    assert_eq!(open(&plain).err().unwrap().code(), Code::Corrupt);
}

#[test]
fn a_store_that_does_not_fit_its_url_is_refused_before_it_is_read_as_something_else() {
    let scratch = Scratch::new();
    written_by_go(scratch.path());
    fs::write(scratch.path().join("notes.txt"), "no chunk").unwrap();
    fs::write(scratch.path().join("007"), "nor this").unwrap();
    let code = |parameters: &str| open(&url(scratch.path(), parameters)).err().map(|error| error.code());
    assert_eq!(code("size=300000"), None, "names that are no offset are not looked at");
    let refused = Some(Code::InvalidArgument);
    assert_eq!(code("chunk=64KiB"), refused, "no size");
    assert_eq!(code("size=300000&chunk=96KiB"), refused, "no chunk begins at 131072");
    assert_eq!(code("size=200000"), refused, "there is more");
    assert_eq!(code("size=300000&chunk=0"), refused);
    assert_eq!(code("size=300000&chunk=2GiB"), refused);
    assert_eq!(code("size=300000&chunks=64KiB"), refused);
    let file = scratch.path().join("notes.txt");
    assert_eq!(open(&url(&file, "size=1")).err().unwrap().code(), Code::InvalidArgument, "a file");
    // Offsets that fit shorter chunks too: told when the file is opened.
    let backend = open(&url(scratch.path(), "size=300000&chunk=32KiB")).unwrap();
    let error = backend.read_at(&mut [0], 0).unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    assert!(error.message().contains("chunk="), "{error}");
}

#[test]
fn zeroing_whole_chunks_removes_their_files_and_parts_keep_the_rest() {
    let scratch = Scratch::new();
    let mut region = written_by_go(scratch.path());
    let backend = open(&url(scratch.path(), "size=300000")).unwrap();
    read(&backend, 131_072, 1);
    backend.zero_at(60_000, 240_000).unwrap();
    region[60_000..].fill(0);
    assert_eq!(names(scratch.path()), ["0"]);
    assert!(all(&backend) == region);
    backend.zero_at(70_000, 100).unwrap();
    assert_eq!(names(scratch.path()), ["0"], "zeroing what is zero creates nothing");
    backend.write_at(b"new", 131_072).unwrap();
    region[131_072..131_075].copy_from_slice(b"new");
    backend.sync().unwrap();
    assert!(all(&open(&url(scratch.path(), "size=300000")).unwrap()) == region);
}

#[test]
fn more_chunks_than_files_may_be_open_are_written_read_and_synced() {
    let scratch = Scratch::new();
    let open_files = || {
        let descriptors =
            fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        descriptors.filter(|path| path.starts_with(scratch.path().join("many"))).count()
    };
    let backend = open(&url(&scratch.path().join("many"), "size=1MiB&chunk=4KiB")).unwrap();
    for round in 1..3u64 {
        for chunk in (0..256).rev() {
            backend.write_at(&(chunk * round).to_le_bytes(), chunk * 4096 + 100).unwrap();
        }
        assert!(open_files() <= 130, "{} files open", open_files());
        for chunk in 0..256 {
            assert_eq!(read(&backend, chunk * 4096 + 100, 8), (chunk * round).to_le_bytes());
        }
        backend.sync().unwrap();
    }
    assert!(open_files() <= 130, "{} files open", open_files());
    drop(backend);
    assert_eq!(open_files(), 0);
}

/// Runs a test of this file by itself as a user who owns nothing: root may read and write what it likes.
fn as_nobody(test: &str, at: &Path) {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().unwrap();
    let copy = at.join("test");
    fs::copy(program, &copy).unwrap();
    let mut command = std::process::Command::new(copy);
    command.args(["--exact", test, "--test-threads=1"]).env("R3MAP_TEST_STORE", at.join("store")).current_dir("/");
    // SAFETY: asks who runs the tests, no more.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn without_permission_to_write_a_store_is_read_only_and_one_without_permission_to_read_an_error() {
    let name = "without_permission_to_write_a_store_is_read_only_and_one_without_permission_to_read_an_error";
    let Some(store) = std::env::var_os("R3MAP_TEST_STORE") else {
        let scratch = Scratch::new();
        let at = scratch.path().join("store");
        fs::create_dir(&at).unwrap();
        written_by_go(&at);
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&at.join("0"), 0o444);
        mode(&at.join("131072"), 0o000);
        mode(&at, 0o555);
        mode(scratch.path(), 0o755);
        as_nobody(name, scratch.path());
        mode(&at, 0o755);
        return;
    };
    let backend: Arc<dyn Backend> = open(&url(Path::new(&store), "size=300000")).unwrap();
    assert!(backend.info().read_only);
    assert_eq!(read(&backend, 0, 65536), [1; 65536]);
    assert_eq!(read(&backend, 65536, 10), [0; 10], "a hole is zero here too");
    assert_eq!(backend.read_at(&mut [0], 131_072).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(backend.write_at(b"x", 0).unwrap_err().code(), Code::ReadOnly);
    assert_eq!(backend.zero_at(0, 10).unwrap_err().code(), Code::ReadOnly);
}

#[test]
fn a_store_is_the_same_region_at_every_opening_and_another_in_its_place_is_not() {
    let scratch = Scratch::new();
    let at = scratch.path().join("store");
    let identity = || open(&url(&at, "size=1MiB")).unwrap().info().identity.unwrap();
    let first = identity();
    assert_eq!(identity(), first);
    fs::rename(&at, scratch.path().join("aside")).unwrap();
    assert_ne!(identity(), first);
}
