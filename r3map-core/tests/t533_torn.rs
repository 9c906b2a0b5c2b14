//! 533: what a power loss tore or a disk flipped is found, and what was durable is there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use r3map_core::{BackendOptions, Mount, MountOptions, Pull};

mod faults;

use faults::{Directory, ServerProcess, assert_same, eventually, pattern};

const PAGE: usize = 4096;
const PAGES: usize = 300;
/// The last page is short.
const SIZE: usize = PAGES * PAGE - 1000;
/// Of the head of a journal: where the boot stands, and the checksum.
const BOOT: usize = 64;
const CHECK: usize = 116;
/// Where its checksums begin, behind the head and four tables.
const CHECKS: u64 = 5 * PAGE as u64;

#[test]
#[ignore = "started by another test"]
fn serves_until_it_is_killed() {
    faults::serve();
}

struct Bed {
    directory: Directory,
    server: ServerProcess,
    twin: Vec<u8>,
}

impl Bed {
    fn new() -> Bed {
        let directory = Directory::new();
        let file = directory.file("file");
        let twin = pattern(SIZE, 8);
        std::fs::write(&file, &twin).unwrap();
        let server = ServerProcess::unix(&file, &directory.file("socket"));
        Bed { directory, server, twin }
    }

    fn mount(&self, push_interval: Duration) -> Mount {
        let cache = format!("file://{}", self.pages().display());
        let options = Mount::options().cache(cache).deadline(Duration::from_secs(3));
        let options = MountOptions { pull: Pull::Demand, push_interval, ..options };
        options.open_url(&self.server.url(), &BackendOptions::default()).unwrap()
    }

    fn write(&mut self, mount: &Mount, page: usize, byte: u8) {
        let bytes = page * PAGE..((page + 1) * PAGE).min(SIZE);
        self.twin[bytes.clone()].fill(byte);
        mount.write_at(&self.twin[bytes.clone()], bytes.start as u64).unwrap();
    }

    fn pages(&self) -> PathBuf {
        self.directory.file("cache")
    }

    fn journal(&self) -> PathBuf {
        self.directory.file("cache.r3map-cache")
    }

    /// Makes it a cache that was last open in another boot.
    fn power_loss(&self) {
        let journal = write_to(self.journal());
        let mut head = [0; CHECK + 4];
        journal.read_exact_at(&mut head, 0).unwrap();
        head[BOOT] ^= 0xff;
        let check = crc32c::crc32c(&head[..CHECK]).to_le_bytes();
        head[CHECK..].copy_from_slice(&check);
        journal.write_all_at(&head, 0).unwrap();
    }

    #[track_caller]
    fn assert_right(&self, mount: &Mount) {
        let mut bytes = vec![0; SIZE];
        mount.read_at(&mut bytes, 0).unwrap();
        assert_same(&bytes, &self.twin, "by the mount");
    }
}

fn write_to(path: PathBuf) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_clean_page_that_tore_is_fetched_again_and_a_dirty_one_that_was_synced_stays() {
    let mut bed = Bed::new();
    let mount = bed.mount(Duration::ZERO);
    mount.pull(0, SIZE as u64).unwrap();
    bed.write(&mount, 5, 0x55);
    mount.sync().unwrap();
    bed.write(&mount, 9, 0x99);
    bed.write(&mount, PAGES - 1, 0x77);
    // A sync that fails for want of the remote makes durable here what it could not push.
    bed.server.kill();
    assert!(mount.sync().is_err());
    drop(mount);
    bed.power_loss();
    let pages = write_to(bed.pages());
    pages.write_all_at(&[0; PAGE], 4 * PAGE as u64).unwrap();
    for at in [3 * PAGE + 17, 5 * PAGE, 200 * PAGE + 4095] {
        let mut byte = [0];
        pages.read_exact_at(&mut byte, at as u64).unwrap();
        pages.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
    }
    bed.server.restart();
    let mount = bed.mount(Duration::ZERO);
    assert_eq!(mount.stats().unwrap().get("dirty_bytes"), Some(2 * PAGE as u64));
    bed.assert_right(&mount);
    let pulled = mount.stats().unwrap().get("pulled_bytes").unwrap();
    assert!(pulled > 0 && pulled < SIZE as u64, "{pulled} bytes: what tore, and not all");
    mount.close().unwrap();
    assert_same(&std::fs::read(bed.directory.file("file")).unwrap(), &bed.twin, "at the backend");
}

#[test]
fn what_is_whole_after_another_boot_is_not_fetched_again() {
    let mut bed = Bed::new();
    let mount = bed.mount(Duration::ZERO);
    mount.pull(0, SIZE as u64).unwrap();
    bed.write(&mount, 7, 0);
    mount.close().unwrap();
    for _ in 0..2 {
        bed.power_loss();
        let mount = bed.mount(Duration::ZERO);
        bed.assert_right(&mount);
        assert_eq!(mount.stats().unwrap().get("pulled_bytes"), Some(0));
        mount.close().unwrap();
    }
    let mount = bed.mount(Duration::ZERO);
    assert_eq!(mount.missing(0, SIZE as u64).unwrap(), [], "what was looked at counts in this boot");
    mount.close().unwrap();
}

#[test]
fn an_older_page_with_its_right_checksum_is_not_taken_for_what_was_pushed_since() {
    let mut bed = Bed::new();
    let mount = bed.mount(Duration::ZERO);
    mount.pull(0, SIZE as u64).unwrap();
    mount.close().unwrap();
    let (old_pages, old_journal) = (std::fs::read(bed.pages()).unwrap(), std::fs::read(bed.journal()).unwrap());
    let mount = bed.mount(Duration::from_millis(5));
    bed.write(&mount, 20, 0x20);
    let file = bed.directory.file("file");
    eventually("it is pushed", || std::fs::read(&file).unwrap() == bed.twin);
    let tables = std::fs::read(bed.journal()).unwrap();
    drop(mount);
    // The power went: the tables reached the disk, as they must before a push; neither bytes nor checksums did.
    let journal = write_to(bed.journal());
    journal.write_all_at(&tables[..CHECKS as usize], 0).unwrap();
    journal.write_all_at(&old_journal[CHECKS as usize..], CHECKS).unwrap();
    write_to(bed.pages()).write_all_at(&old_pages, 0).unwrap();
    bed.power_loss();
    let mount = bed.mount(Duration::ZERO);
    bed.assert_right(&mount);
    mount.close().unwrap();
}

#[test]
fn a_damaged_or_cut_journal_is_refused_and_says_what_to_do() {
    let bed = Bed::new();
    bed.mount(Duration::ZERO).close().unwrap();
    let open = || {
        let options = Mount::options().cache(format!("file://{}", bed.pages().display()));
        options.open_url(&bed.server.url(), &BackendOptions::default()).err().unwrap()
    };
    let whole = std::fs::read(bed.journal()).unwrap();
    std::fs::write(bed.journal(), &whole[..whole.len() - 1]).unwrap();
    let error = open();
    assert_eq!(error.code(), r3map_core::Code::Corrupt);
    assert!(error.message().contains("to start anew"), "{error}");
    let mut flipped = whole;
    flipped[30] ^= 1;
    std::fs::write(bed.journal(), &flipped).unwrap();
    assert_eq!(open().code(), r3map_core::Code::Corrupt);
}
