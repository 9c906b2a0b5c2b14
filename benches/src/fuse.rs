//! A region's path by FUSE, read from its beginning to its end: beside the file itself, and beside a pass-through
//! of the `fuser` crate with the same kernel settings.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request,
};
use r3map_core::device::Kind;
use r3map_core::{BackendOptions, DeviceChoice, Mode, Mount};

use crate::{Directory, Measured, speed, time};

const SIZE: u64 = 512 << 20;
/// Of a read, of the kernel's read-ahead and so of a request.
const STEP: usize = 1 << 20;

/// A file of the page cache.
struct Source {
    directory: Directory,
    path: PathBuf,
}

impl Source {
    fn new() -> Source {
        let directory = Directory::fresh();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        for offset in (0..SIZE).step_by(STEP) {
            file.write_all_at(&vec![(offset >> 20) as u8 | 1; STEP], offset).unwrap();
        }
        // Its pages stay, and no writing back runs beside what is timed.
        file.sync_all().unwrap();
        Source { directory, path }
    }

    fn read_directly(&self) -> f64 {
        read_all(&self.path)
    }

    /// Through a fresh mount of ours, of which the kernel has no page.
    fn read_ours(&self) -> f64 {
        let options = Mount::options().device(DeviceChoice::Fuse).mode(Mode::Direct);
        let mount = options.open_url(&format!("file://{}", self.path.display()), &BackendOptions::default()).unwrap();
        let seconds = read_all(&mount.path().unwrap());
        mount.discard().unwrap();
        seconds
    }

    /// Through a fresh mount of the pass-through.
    fn read_peer(&self) -> f64 {
        let place = self.directory.path().join("peer");
        std::fs::create_dir_all(&place).unwrap();
        let mut config = Config::default();
        config.n_threads = Some(2);
        config.clone_fd = true;
        let session = fuser::spawn_mount(PassThrough(File::open(&self.path).unwrap()), &place, &config).unwrap();
        set_read_ahead(&place);
        let seconds = read_all(&place.join("file"));
        session.umount_and_join().unwrap();
        seconds
    }
}

fn read_all(path: &Path) -> f64 {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; STEP];
    time(|| {
        for _ in 0..SIZE / STEP as u64 {
            file.read_exact(&mut buffer).unwrap();
            std::hint::black_box(&buffer);
        }
    })
}

/// What the mount's greeting cannot raise above 128 KiB, as our device does too.
fn set_read_ahead(place: &Path) {
    let device = std::fs::metadata(place).unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), (STEP >> 10).to_string()).unwrap();
}

/// A directory with one file, whose reads go to another.
struct PassThrough(File);

impl PassThrough {
    const FILE: INodeNo = INodeNo(2);

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let metadata: Metadata = self.0.metadata().unwrap();
        let (kind, perm) =
            if inode == PassThrough::FILE { (FileType::RegularFile, 0o444) } else { (FileType::Directory, 0o555) };
        FileAttr {
            ino: inode,
            size: metadata.len(),
            blocks: metadata.blocks(),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

impl Filesystem for PassThrough {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What the kernel does not offer it does not take from us either.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_READ);
        let _ = config.set_max_write(STEP as u32);
        // An error names the most that the kernel takes.
        let _ = config.set_max_readahead(STEP as u32).or_else(|most| config.set_max_readahead(most));
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("file") => reply.entry(&FOR_EVER, &self.attributes(PassThrough::FILE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(inode));
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; size as usize];
        match self.0.read_at(&mut data, offset) {
            Ok(length) => reply.data(&data[..length]),
            Err(error) => reply.error(error.into()),
        }
    }
}

fn ours_against(floor: fn(&Source) -> f64) -> Measured {
    if let Err(error) = Kind::Fuse.probe() {
        return Measured::skipped(error);
    }
    let source = Source::new();
    speed(SIZE, || source.read_ours(), || floor(&source))
}

/// Against the file itself.
pub fn direct() -> Measured {
    ours_against(Source::read_directly)
}

/// Against a pass-through.
pub fn peer() -> Measured {
    match std::fs::metadata("/sys/class/bdi") {
        // SAFETY: geteuid has no preconditions.
        Ok(_) if unsafe { libc::geteuid() } == 0 => ours_against(Source::read_peer),
        _ => Measured::skipped("only root raises the peer's read-ahead to ours"),
    }
}
