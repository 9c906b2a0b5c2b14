//! 330: a slice whose faults are served in this process.
#![allow(clippy::undocumented_unsafe_blocks)] // They touch the slice of the test's own mount, where nobody else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::{Backend, Code, DeviceChoice, Error, Info, Mode, Mount, MountOptions, Result};

#[path = "../../tests/skip.rs"]
mod skip;

/// A backend that answers from a pool thread and counts, so that every access of a slice has to wait.
struct Far {
    info: Info,
    bytes: Memory,
    reads: AtomicU64,
    synced: AtomicU64,
    broken: AtomicBool,
}

impl Far {
    fn new(size: u64) -> Arc<Far> {
        let info = Info { local: false, ..Info::local("far", size) };
        let bytes = Memory::new(size).unwrap();
        let far = Far { info, bytes, reads: 0.into(), synced: 0.into(), broken: false.into() };
        for page in 0..size.div_ceil(4096) {
            let mark = page.to_le_bytes();
            let length = 8.min(size - page * 4096) as usize;
            far.bytes.write_at(&mark[..length], page * 4096).unwrap();
        }
        Arc::new(far)
    }

    fn check(&self) -> Result<()> {
        match self.broken.load(Ordering::SeqCst) {
            true => Err(Error::new(Code::Io, "the far end is broken")),
            false => Ok(()),
        }
    }
}

impl Backend for Far {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.check()?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.bytes.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check()?;
        self.bytes.write_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        self.check()?;
        self.synced.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn options(mode: Mode) -> MountOptions {
    Mount::options().device(DeviceChoice::Userfaultfd).mode(mode).deadline(Duration::from_secs(10))
}

fn mark(bytes: &[u8], page: usize) -> u64 {
    u64::from_le_bytes(bytes[page * 4096..page * 4096 + 8].try_into().unwrap())
}

const MODES: [Mode; 2] = [Mode::Direct, Mode::Managed];

#[test]
fn a_slice_shows_every_byte_of_its_backend_whatever_the_order() {
    for mode in MODES {
        let far = Far::new(8 << 20);
        let mount = options(mode).open(far).unwrap();
        let slice = mount.slice().unwrap();
        assert_eq!(slice.len(), 8 << 20);
        let bytes = unsafe { slice.as_slice() };
        let mut page = 1;
        for _ in 0..2048 {
            page = (page * 1103515245 + 12345) % 2048;
            assert_eq!(mark(bytes, page), page as u64, "{mode:?}");
        }
        for page in 0..2048 {
            assert_eq!(mark(bytes, page), page as u64, "{mode:?}");
        }
        assert!(mount.missing(0, 8 << 20).unwrap().is_empty());
        mount.close().unwrap();
    }
}

#[test]
fn stores_to_a_slice_reach_the_backend_at_sync_and_no_other_byte_changes() {
    for mode in MODES {
        let size = (4 << 20) + 1234;
        let far = Far::new(size);
        let mount = MountOptions { push_interval: Duration::ZERO, ..options(mode) }.open(far.clone()).unwrap();
        let slice = mount.slice().unwrap();
        let mut expected = vec![0; size as usize];
        far.bytes.read_at(&mut expected, 0).unwrap();
        for round in 1..4u8 {
            for at in (round as usize * 100..size as usize).step_by(50_000) {
                unsafe { slice.as_ptr().add(at).write_volatile(round) };
                expected[at] = round;
            }
            unsafe { slice.as_ptr().add(size as usize - 1).write_volatile(round) };
            expected[size as usize - 1] = round;
            mount.sync().unwrap();
            let mut stored = vec![0; size as usize];
            far.bytes.read_at(&mut stored, 0).unwrap();
            assert!(stored == expected, "{mode:?} round {round}");
        }
        assert_eq!(far.synced.load(Ordering::SeqCst), 3);
        let pushed = mount.stats().unwrap().get("pushed_bytes").unwrap();
        assert!(pushed <= 3 * 86 * 4096, "{mode:?}: {pushed} bytes pushed");
        mount.sync().unwrap();
        assert_eq!(mount.stats().unwrap().get("pushed_bytes").unwrap(), pushed, "nothing was written since");
        mount.close().unwrap();
    }
}

#[test]
fn handle_and_slice_see_each_other_at_once() {
    for mode in MODES {
        let mount = options(mode).open(Far::new(1 << 20)).unwrap();
        mount.write_at(b"before", 5000).unwrap();
        let slice = mount.slice().unwrap();
        let bytes = slice.as_ptr();
        let read = |at: usize, length: usize| unsafe { std::slice::from_raw_parts(bytes.add(at), length).to_vec() };
        assert_eq!(read(5000, 6), b"before");
        mount.write_at(b"handle", 70_000).unwrap();
        assert_eq!(read(70_000, 6), b"handle");
        unsafe { bytes.add(300_000).copy_from(b"slice".as_ptr(), 5) };
        let mut seen = [0; 5];
        mount.read_at(&mut seen, 300_000).unwrap();
        assert_eq!(&seen, b"slice");
        mount.write_at(&[7; 200_000], 400_001).unwrap();
        assert!(read(400_001, 200_000).iter().all(|byte| *byte == 7));
        mount.close().unwrap();
    }
}

#[test]
fn random_stores_under_background_pushes_are_never_lost() {
    let size = 16 << 20;
    let far = Far::new(size);
    let interval = Duration::from_millis(3);
    let mount = MountOptions { push_interval: interval, ..options(Mode::Managed) }.open(far.clone()).unwrap();
    let slice = mount.slice().unwrap();
    let mut expected = vec![0; size as usize];
    far.bytes.read_at(&mut expected, 0).unwrap();
    let mut seed = 88172645463325252u64;
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < until {
        for _ in 0..1000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = (seed >> 20) as usize % size as usize;
            let byte = seed as u8;
            expected[at] = byte;
            match seed >> 60 {
                0 => mount.write_at(&[byte], at as u64).unwrap(),
                _ => unsafe { slice.as_ptr().add(at).write_volatile(byte) },
            }
        }
    }
    assert!(unsafe { slice.as_slice() } == expected);
    mount.sync().unwrap();
    let mut stored = vec![0; size as usize];
    far.bytes.read_at(&mut stored, 0).unwrap();
    let wrong = stored.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert_eq!(wrong, 0, "bytes lost");
    mount.close().unwrap();
}

#[test]
fn pull_makes_a_range_resident_or_returns_the_error_that_a_touch_cannot() {
    let far = Far::new(4 << 20);
    let mount = options(Mode::Direct).open(far.clone()).unwrap();
    let _slice = mount.slice().unwrap();
    mount.pull(1 << 20, 1 << 20).unwrap();
    assert_eq!(mount.missing(0, 4 << 20).unwrap(), [0..1 << 20, 2 << 20..4 << 20]);
    far.broken.store(true, Ordering::SeqCst);
    let error = mount.pull(3 << 20, 4096).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Io, "the far end is broken"));
    far.broken.store(false, Ordering::SeqCst);
    mount.pull(0, 4 << 20).unwrap();
    assert!(mount.missing(0, 4 << 20).unwrap().is_empty());
    mount.close().unwrap();
}

#[test]
fn a_failed_push_fails_every_sync_until_it_got_through() {
    for mode in MODES {
        let far = Far::new(1 << 20);
        let mount = options(mode).open(far.clone()).unwrap();
        let slice = mount.slice().unwrap();
        unsafe { slice.as_ptr().add(4096).write_volatile(9) };
        far.broken.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(mount.sync().unwrap_err().message(), "the far end is broken");
        }
        let error = mount.close().unwrap_err();
        assert!(error.message().contains("the mount stays open"), "{error}");
        far.broken.store(false, Ordering::SeqCst);
        mount.sync().unwrap();
        let mut byte = [0];
        far.bytes.read_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [9]);
        mount.close().unwrap();
        assert_eq!(mount.sync().unwrap_err().code(), Code::Closed);
    }
}

#[test]
fn opening_and_closing_many_slices_leaks_no_descriptor_thread_or_mapping() {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let cycle = |mode| {
        let mount = options(mode).open(Far::new(1 << 20)).unwrap();
        let slice = mount.slice().unwrap();
        assert_eq!(mark(unsafe { slice.as_slice() }, 3), 3);
        mount.close().unwrap();
    };
    MODES.into_iter().for_each(cycle);
    let before = (count("/proc/self/fd"), count("/proc/self/task"), maps());
    for _ in 0..150 {
        MODES.into_iter().for_each(cycle);
    }
    // Pool threads come and go and other tests run beside: a leak would show in the hundreds.
    assert!(count("/proc/self/fd") < before.0 + 60);
    assert!(count("/proc/self/task") < before.1 + 60);
    assert!(maps() < before.2 + 100);
}

/// Lets the kernel read the slice: an error where a touch would be a signal.
fn read_by_kernel(slice: &r3map_core::Slice, at: usize) -> std::io::Result<[u8; 8]> {
    use std::io::{Read, Write};
    let (mut end, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
    end.write_all(unsafe { std::slice::from_raw_parts(slice.as_ptr().add(at), 8) })?;
    let mut bytes = [0; 8];
    other.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn a_page_that_cannot_be_had_is_an_error_never_zeros_and_comes_once_the_backend_is_back() {
    for mode in MODES {
        let far = Far::new(1 << 20);
        far.broken.store(true, Ordering::SeqCst);
        let mount = MountOptions { pull: r3map_core::Pull::Demand, ..options(mode) }.open(far.clone()).unwrap();
        let slice = mount.slice().unwrap();
        for _ in 0..3 {
            assert_eq!(read_by_kernel(&slice, 20480).unwrap_err().raw_os_error(), Some(libc::EFAULT), "{mode:?}");
        }
        far.broken.store(false, Ordering::SeqCst);
        mount.pull(20480, 4096).unwrap();
        assert_eq!(read_by_kernel(&slice, 20480).unwrap(), 5u64.to_le_bytes(), "{mode:?}");
        mount.close().unwrap();
    }
}

#[test]
fn a_closed_slice_can_not_be_touched() {
    let mount = options(Mode::Direct).open(Far::new(1 << 20)).unwrap();
    let slice = mount.slice().unwrap();
    assert_eq!(read_by_kernel(&slice, 4096).unwrap(), 1u64.to_le_bytes());
    mount.close().unwrap();
    for at in [0, 4096, 1 << 19] {
        assert_eq!(read_by_kernel(&slice, at).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }
}

#[test]
fn a_read_only_slice_reads_and_a_store_to_it_fails() {
    use std::io::{Read, Write};
    let mount = options(Mode::Direct).read_only(true).open(Far::new(1 << 20)).unwrap();
    let slice = mount.slice().unwrap();
    assert!(slice.is_read_only());
    assert_eq!(mark(unsafe { slice.as_slice() }, 7), 7);
    let (mut end, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
    end.write_all(b"x").unwrap();
    let store = other.read(unsafe { std::slice::from_raw_parts_mut(slice.as_ptr(), 1) });
    assert_eq!(store.unwrap_err().raw_os_error(), Some(libc::EFAULT));
    assert_eq!(mount.write_at(b"x", 0).unwrap_err().code(), Code::ReadOnly);
    mount.close().unwrap();
}

#[test]
fn in_a_forked_child_calls_fail_closed_and_the_slice_is_not_there() {
    let mount = options(Mode::Direct).open(Far::new(1 << 20)).unwrap();
    let slice = mount.slice().unwrap();
    let child = unsafe { libc::fork() };
    if child == 0 {
        let closed = mount.read_at(&mut [0; 8], 0).is_err_and(|error| error.code() == Code::Closed);
        let mut resident = 0u8;
        let gone = unsafe { libc::mincore(slice.as_ptr().cast(), 4096, &mut resident) } == -1;
        drop(mount);
        unsafe { libc::_exit(if closed && gone { 0 } else { 1 }) };
    }
    let mut status = 0;
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    assert_eq!(mark(unsafe { slice.as_slice() }, 9), 9, "the parent's goes on");
    mount.close().unwrap();
}

#[test]
fn a_touch_of_a_page_that_cannot_be_had_ends_the_process_with_sigbus() {
    use std::os::unix::process::ExitStatusExt;
    let name = "a_touch_of_a_page_that_cannot_be_had_ends_the_process_with_sigbus";
    if std::env::var_os("R3MAP_TEST_TOUCH").is_some() {
        let far = Far::new(1 << 20);
        far.broken.store(true, Ordering::SeqCst);
        let mount = options(Mode::Direct).open(far).unwrap();
        let slice = mount.slice().unwrap();
        let seen = unsafe { slice.as_ptr().read_volatile() };
        panic!("read {seen} from a page that cannot be had");
    }
    let test = std::env::current_exe().unwrap();
    let status = std::process::Command::new(test)
        .args(["--exact", name, "--test-threads=1"])
        .env("R3MAP_TEST_TOUCH", "1")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

/// Features of userfaultfd by their numbers in the kernel's ABI.
const MISSING: u64 = 1 << 5;
const MINOR: u64 = 1 << 10;
const WRITE_PROTECT: u64 = 1 << 12;
const POISON: u64 = 1 << 14;

/// Runs tests of this file by themselves, with a kernel taken to have these features only; says how many passed.
fn run_again(features: u64, tests: &[&str]) -> usize {
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    let command = command.args(tests).env("R3MAP_USERFAULTFD_FEATURES", features.to_string());
    passed(command.arg("--test-threads=2"))
}

fn passed(command: &mut std::process::Command) -> usize {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {}\n{said}", command.get_envs(), output.status);
    let passed = said.split(" passed;").next().and_then(|before| before.rsplit(' ').next());
    passed.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no result: {said}"))
}

/// Whether this process is one that another test started with fewer features.
fn is_run_again() -> bool {
    std::env::var_os("R3MAP_USERFAULTFD_FEATURES").is_some()
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only debug builds can be told what a kernel lacks")]
fn everything_holds_where_writes_are_found_by_faults() {
    if is_run_again() {
        return;
    }
    // Linux 5.19 to 6.5, and 6.6.
    for features in [MISSING | MINOR | WRITE_PROTECT, MISSING | MINOR | WRITE_PROTECT | POISON] {
        assert!(run_again(features, &[]) >= 16);
    }
}

#[test]
fn stores_are_found_once_each_though_pages_were_there_before_the_slice() {
    for mode in MODES {
        let far = Far::new(1 << 20);
        let mount = MountOptions { push_interval: Duration::ZERO, ..options(mode) }.open(far.clone()).unwrap();
        if mode == Mode::Managed {
            mount.pull(0, 1 << 20).unwrap();
        }
        let slice = mount.slice().unwrap();
        assert_eq!(mark(unsafe { slice.as_slice() }, 9), 9);
        for round in 1..4u8 {
            for page in [3, 4, 5, 100, 255] {
                unsafe { slice.as_ptr().add(page * 4096 + 50).write_volatile(round) };
            }
            mount.sync().unwrap();
            let mut byte = [0];
            for page in [3, 4, 5, 100, 255] {
                far.bytes.read_at(&mut byte, page * 4096 + 50).unwrap();
                assert_eq!(byte, [round], "{mode:?}, page {page}");
            }
            let pushed = mount.stats().unwrap().get("pushed_bytes").unwrap();
            assert_eq!(pushed, u64::from(round) * 5 * 4096, "{mode:?}");
        }
        mount.close().unwrap();
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only debug builds can be told what a kernel lacks")]
fn a_kernel_that_cannot_find_writes_gives_a_slice_that_is_read_only() {
    let name = "a_kernel_that_cannot_find_writes_gives_a_slice_that_is_read_only";
    if !is_run_again() {
        // Linux 5.13 to 5.18, and before.
        for features in [MISSING | MINOR, MISSING] {
            let read_only = "a_read_only_slice_reads_and_a_store_to_it_fails";
            assert_eq!(run_again(features, &[name, read_only]), 2);
        }
        // The guest's kernel is one of these.
        if !skip::in_guest() && r3map_core::device::Kind::Userfaultfd.probe().is_ok() {
            skip::leave_to_guest("this kernel finds writes");
        }
        return;
    }
    let features: u64 = std::env::var("R3MAP_USERFAULTFD_FEATURES").unwrap().parse().unwrap();
    if features & WRITE_PROTECT != 0 {
        return;
    }
    for mode in MODES {
        let far = Far::new(1 << 20);
        let mount = options(mode).open(far.clone()).unwrap();
        let error = mount.slice().err().unwrap();
        assert_eq!(error.code(), Code::NoDevice);
        assert!(error.message().contains("needs Linux 5.19; read_only=true works here"), "{error}");
        mount.write_at(b"still works", 5).unwrap();
        mount.close().unwrap();
        let mount = MountOptions { pull: r3map_core::Pull::Demand, ..options(mode) };
        let mount = mount.read_only(true).open(far.clone()).unwrap();
        if mode == Mode::Managed {
            mount.pull(8192, 4096).unwrap();
        }
        let slice = mount.slice().unwrap();
        mount.pull(8192, 4096).unwrap();
        far.broken.store(true, Ordering::SeqCst);
        assert_eq!(read_by_kernel(&slice, 20480).unwrap_err().raw_os_error(), Some(libc::EFAULT), "{mode:?}");
        assert_eq!(mark(unsafe { slice.as_slice() }, 2), 2, "what is here is read");
        far.broken.store(false, Ordering::SeqCst);
        mount.pull(0, 1 << 20).unwrap();
        for page in 1..256 {
            assert_eq!(mark(unsafe { slice.as_slice() }, page), page as u64, "{mode:?}");
        }
        assert_eq!(&unsafe { slice.as_slice() }[5..16], b"still works");
        mount.close().unwrap();
    }
    assert_eq!(r3map_core::device::Kind::Userfaultfd.probe().unwrap_err().code(), Code::NoDevice);
}

#[test]
fn an_unprivileged_user_has_a_slice_by_name_that_the_kernel_itself_cannot_read() {
    use std::os::unix::process::CommandExt;
    let name = "an_unprivileged_user_has_a_slice_by_name_that_the_kernel_itself_cannot_read";
    if std::env::var_os("R3MAP_TEST_UNPRIVILEGED").is_none() {
        let copy = std::env::temp_dir().join(format!("r3map-t330-{}", std::process::id()));
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let mut command = std::process::Command::new(&copy);
        command.args(["--exact", name]).env("R3MAP_TEST_UNPRIVILEGED", "1").current_dir("/");
        if unsafe { libc::geteuid() } == 0 {
            command.uid(65534).gid(65534);
        }
        let ran = passed(&mut command);
        std::fs::remove_file(&copy).unwrap();
        assert_eq!(ran, 1);
        return;
    }
    let user_mode = |mode| options(mode).device(DeviceChoice::UserfaultfdUserMode);
    for mode in MODES {
        let far = Far::new(1 << 20);
        let mount = MountOptions { pull: r3map_core::Pull::Demand, ..user_mode(mode) }.open(far.clone()).unwrap();
        let slice = mount.slice().unwrap();
        let error = read_by_kernel(&slice, 20480).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "{mode:?}: a page that is missing");
        assert_eq!(mark(unsafe { slice.as_slice() }, 5), 5);
        assert_eq!(read_by_kernel(&slice, 20480).unwrap(), 5u64.to_le_bytes(), "{mode:?}: one that is here");
        unsafe { slice.as_ptr().add(70_000).write_volatile(7) };
        mount.write_at(b"handle", 80_000).unwrap();
        assert_eq!(&unsafe { slice.as_slice() }[80_000..80_006], b"handle");
        mount.sync().unwrap();
        let mut bytes = [0; 10_006];
        far.bytes.read_at(&mut bytes, 70_000).unwrap();
        assert_eq!((bytes[0], &bytes[10_000..]), (7, &b"handle"[..]));
        mount.close().unwrap();
    }
    // Whoever may not serve the kernel's faults is told so, and of the choice there is.
    let mount = options(Mode::Direct).open(Far::new(1 << 20)).unwrap();
    match mount.slice() {
        Ok(_) => assert_eq!(std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap(), "1\n"),
        Err(error) => {
            assert_eq!(error.code(), Code::PermissionDenied);
            assert!(error.message().contains("device=userfaultfd:user-mode"), "{error}");
        }
    }
}
