//! The kernel NBD device: what its views show, and what reaches the backend.

mod nbd;

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use nbd::{BLKDISCARD, BLKZEROOUT, Probe, Seen, Silent, attached, machine, memory, mount, options, pattern};
use nbd::{range_ioctl, wait_until};
use r3map_core::backend::Backend;
use r3map_core::{Code, DeviceChoice, Mount};

const MIB: usize = 1 << 20;

#[test]
fn path_file_slice_and_handle_show_the_same_bytes() {
    let Some(_machine) = machine() else { return };
    let backend = memory(4 * MIB as u64);
    let bytes = pattern(4 * MIB, 1);
    backend.write_at(&bytes, 0).unwrap();
    let mount = mount(backend.clone());

    assert!(mount.path().unwrap().starts_with("/dev"));
    assert_eq!(std::fs::read(mount.path().unwrap()).unwrap(), bytes);
    let slice = mount.slice().unwrap();
    assert_eq!(slice.len(), bytes.len());
    // SAFETY: nobody else touches the region here.
    let memory = unsafe { slice.as_mut_slice() };
    assert!(memory == bytes);

    memory[5000..5005].copy_from_slice(b"slice");
    let mut seen = [0; 5];
    mount.read_at(&mut seen, 5000).unwrap();
    assert_eq!(&seen, b"slice");
    mount.write_at(b"handle", 123_456).unwrap();
    assert_eq!(&memory[123_456..123_462], b"handle");
    let file = mount.file().unwrap();
    file.write_all_at(b"file", 4 * MIB as u64 - 4).unwrap();
    assert_eq!(&memory[4 * MIB - 4..], b"file");

    mount.sync().unwrap();
    let mut at_backend = vec![0; 4 * MIB];
    backend.read_at(&mut at_backend, 0).unwrap();
    assert!(at_backend == memory);
    drop(file);
    mount.close().unwrap();
    assert_eq!(attached(), Vec::<String>::new());
}

#[test]
fn a_size_of_no_whole_block_is_rounded_up_with_zeros_that_are_never_stored() {
    let Some(_machine) = machine() else { return };
    for size in [1, 511, 4095, 4097, 3 * MIB as u64 + 77] {
        let probe = Probe::new(size, true);
        let bytes = pattern(size as usize, size);
        probe.write_at(&bytes, 0).unwrap();
        let mount = mount(probe.clone());
        let mut device = mount.file().unwrap();
        let rounded = size.next_multiple_of(4096);
        assert_eq!(device.seek(SeekFrom::End(0)).unwrap(), rounded);
        let mut all = vec![1; rounded as usize];
        device.read_exact_at(&mut all, 0).unwrap();
        assert!(all[..size as usize] == bytes, "{size}");
        assert!(all[size as usize..].iter().all(|byte| *byte == 0), "{size}");

        // What is written past the end is taken and forgotten.
        device.write_all_at(&[9], size - 1).unwrap();
        device.write_all_at(&[7], rounded - 1).unwrap();
        assert_eq!(mount.slice().unwrap().len(), size as usize);
        mount.sync().unwrap();
        for seen in probe.take_seen() {
            if let Seen::Write { offset, length } = seen {
                assert!(offset + length as u64 <= size, "{size}: {seen:?}");
            }
        }
        drop(device);
        mount.close().unwrap();
        let mut last = [0];
        probe.read_at(&mut last, size - 1).unwrap();
        assert_eq!(last, [if rounded == size { 7 } else { 9 }], "{size}");
    }
}

#[test]
fn a_region_of_no_bytes_is_an_empty_device() {
    let Some(_machine) = machine() else { return };
    let mount = mount(memory(0));
    assert_eq!(std::fs::read(mount.path().unwrap()).unwrap(), b"");
    assert!(mount.slice().unwrap().is_empty());
    mount.close().unwrap();
}

#[test]
fn a_flush_covers_every_write_answered_before_it() {
    let Some(_machine) = machine() else { return };
    for in_place in [true, false] {
        let probe = Probe::new(MIB as u64, in_place);
        let mount = mount(probe.clone());
        let file = mount.file().unwrap();
        probe.take_seen();
        for page in 0..8 {
            file.write_all_at(&[1; 4096], page * 3 * 4096).unwrap();
        }
        file.sync_all().unwrap();
        let seen = probe.take_seen();
        let pages = seen.iter().filter(|seen| matches!(seen, Seen::Write { .. })).count();
        assert_eq!((pages, seen.last()), (8, Some(&Seen::Sync)), "{seen:?}");
        drop(file);
        mount.close().unwrap();
    }
}

#[test]
fn a_durable_write_is_synced_before_it_is_answered() {
    let Some(_machine) = machine() else { return };
    for in_place in [true, false] {
        let probe = Probe::new(MIB as u64, in_place);
        let mount = mount(probe.clone());
        let file = direct(&mount, libc::O_DSYNC);
        let mut buffer = aligned(4096);
        buffer.fill(3);
        probe.take_seen();
        file.write_all_at(&buffer, 8192).unwrap();
        // The kernel may flush besides.
        assert_eq!(probe.take_seen()[..2], [Seen::Write { offset: 8192, length: 4096 }, Seen::Sync]);
        drop(file);
        mount.close().unwrap();
    }
}

#[test]
fn discarded_and_zeroed_ranges_are_zero_at_the_backend() {
    let Some(_machine) = machine() else { return };
    for in_place in [true, false] {
        let probe = Probe::new(MIB as u64 + 100, in_place);
        probe.write_at(&[0xff; MIB + 100], 0).unwrap();
        let mount = mount(probe.clone());
        let file = mount.file().unwrap();
        probe.take_seen();
        range_ioctl(&file, BLKDISCARD, 4096, 65536).unwrap();
        assert_eq!(probe.take_seen(), [Seen::Zero { offset: 4096, length: 65536 }]);
        // The last block lies only in part inside the region.
        range_ioctl(&file, BLKDISCARD, MIB as u64, 4096).unwrap();
        assert_eq!(probe.take_seen(), [Seen::Zero { offset: MIB as u64, length: 100 }]);
        range_ioctl(&file, BLKZEROOUT, 512 << 10, 4096).unwrap();
        let mut bytes = vec![1; MIB + 100];
        mount.read_at(&mut bytes, 0).unwrap();
        drop(file);
        mount.close().unwrap();
        let mut stored = vec![1; MIB + 100];
        probe.read_at(&mut stored, 0).unwrap();
        assert!(stored == bytes);
        let zero = |range: std::ops::Range<usize>| stored[range].iter().all(|byte| *byte == 0);
        assert!(zero(4096..69632) && zero(MIB..MIB + 100) && zero((512 << 10)..(516 << 10)));
        assert_eq!(stored.iter().filter(|byte| **byte == 0).count(), 65536 + 100 + 4096);
    }
}

#[test]
fn a_read_only_mount_refuses_writes_in_every_view() {
    let Some(_machine) = machine() else { return };
    let backend = memory(MIB as u64);
    backend.write_at(b"kept", 0).unwrap();
    let mount = options().read_only(true).open(backend).unwrap();
    let path = mount.path().unwrap();
    assert_eq!(mount.write_at(b"x", 0).unwrap_err().code(), Code::ReadOnly);
    let write = OpenOptions::new().write(true).open(&path).and_then(|file| {
        file.write_all_at(b"x", 0)?;
        file.sync_all()
    });
    assert!(matches!(write.unwrap_err().raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS)));
    assert!(mount.file().unwrap().write_all_at(b"x", 0).is_err());
    let slice = mount.slice().unwrap();
    assert!(slice.is_read_only());
    assert!(mapped_as(slice.as_ptr() as usize).starts_with("r--s"));
    // SAFETY: nobody writes.
    assert_eq!(unsafe { &slice.as_slice()[..4] }, b"kept");
    mount.sync().unwrap();
    mount.close().unwrap();
}

#[test]
fn a_long_direct_read_or_write_is_one_request() {
    let Some(_machine) = machine() else { return };
    for in_place in [true, false] {
        let probe = Probe::new(8 * MIB as u64, in_place);
        let mount = mount(probe.clone());
        let file = direct(&mount, 0);
        let mut buffer = aligned(MIB);
        probe.take_seen();
        file.read_exact_at(&mut buffer, MIB as u64).unwrap();
        assert_eq!(probe.take_seen(), [Seen::Read { offset: MIB as u64, length: MIB }]);
        let bytes = pattern(MIB, 5);
        buffer.copy_from_slice(&bytes);
        file.write_all_at(&buffer, 3 * MIB as u64).unwrap();
        assert_eq!(probe.take_seen(), [Seen::Write { offset: 3 * MIB as u64, length: MIB }]);
        buffer.fill(0);
        file.read_exact_at(&mut buffer, 3 * MIB as u64).unwrap();
        assert!(buffer[..] == bytes);
        drop(file);
        mount.close().unwrap();
    }
}

#[test]
fn requests_longer_than_the_buffers_are_served_where_root_raised_their_size() {
    let Some(_machine) = machine() else { return };
    for in_place in [true, false] {
        let probe = Probe::new(16 * MIB as u64, in_place);
        let mount = mount(probe.clone());
        let path = mount.path().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        std::fs::write(format!("/sys/block/{name}/queue/max_sectors_kb"), "8192").unwrap();
        let file = direct(&mount, 0);
        let mut buffer = aligned(8 * MIB);
        let bytes = pattern(8 * MIB, 6);
        buffer.copy_from_slice(&bytes);
        file.write_all_at(&buffer, 4096).unwrap();
        buffer.fill(0);
        file.read_exact_at(&mut buffer, 4096).unwrap();
        assert!(buffer[..] == bytes);
        let longest = probe.take_seen().into_iter().map(|seen| match seen {
            Seen::Read { length, .. } | Seen::Write { length, .. } => length,
            _ => 0,
        });
        assert!(longest.max().unwrap() > 2 * MIB);
        drop(file);
        mount.close().unwrap();
    }
}

#[test]
fn read_ahead_is_what_was_asked_for() {
    let Some(_machine) = machine() else { return };
    for (wanted, shown) in [(Some(0), "0"), (Some(1 << 20), "1024"), (None, "256")] {
        let mut options = options();
        options.read_ahead = wanted;
        let mount = options.open(memory(MIB as u64)).unwrap();
        let path = mount.path().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let set = std::fs::read_to_string(format!("/sys/block/{name}/queue/read_ahead_kb")).unwrap();
        assert_eq!(set.trim(), shown);
        mount.close().unwrap();
    }
}

#[test]
fn a_miss_does_not_hold_up_the_reads_behind_it() {
    let Some(_machine) = machine() else { return };
    let probe = Probe::new(MIB as u64, false);
    probe.write_at(b"behind", 65536).unwrap();
    let mount = mount(probe.clone());
    let file = direct(&mount, 0);
    probe.block(Some(0));
    thread::scope(|scope| {
        let missing = scope.spawn(|| file.read_at(&mut aligned(4096), 0).unwrap());
        wait_until("the first read waits at the backend", || probe.waiting.load(Ordering::SeqCst) == 1);
        let mut buffer = aligned(4096);
        file.read_exact_at(&mut buffer, 65536).unwrap();
        assert_eq!(&buffer[..6], b"behind");
        assert!(!missing.is_finished());
        probe.block(None);
        assert_eq!(missing.join().unwrap(), 4096);
    });
    drop(file);
    mount.close().unwrap();
}

#[test]
fn a_failed_read_is_an_error_and_the_next_one_asks_again() {
    let Some(_machine) = machine() else { return };
    // Where no search for partitions has been.
    const AT: u64 = 768 << 10;
    for in_place in [true, false] {
        let probe = Probe::new(MIB as u64, in_place);
        probe.write_at(b"back", AT).unwrap();
        let mount = mount(probe.clone());
        let file = mount.file().unwrap();
        probe.fail_reads.store(true, Ordering::SeqCst);
        assert_eq!(file.read_at(&mut [0; 4], AT).unwrap_err().raw_os_error(), Some(libc::EIO));
        let error = mount.read_at(&mut [0; 4], AT).unwrap_err();
        assert_eq!(error.code(), Code::Corrupt);
        assert!(error.message().ends_with("the probe was told to fail"), "{error}");
        probe.fail_reads.store(false, Ordering::SeqCst);
        let mut bytes = [0; 4];
        mount.read_at(&mut bytes, AT).unwrap();
        assert_eq!(&bytes, b"back");
        drop(file);
        mount.close().unwrap();
    }
}

#[test]
fn every_sync_fails_once_a_write_was_lost() {
    let Some(_machine) = machine() else { return };
    for in_place in [true, false] {
        let probe = Probe::new(MIB as u64, in_place);
        let mount = mount(probe.clone());
        mount.path().unwrap();
        probe.fail_writes.store(true, Ordering::SeqCst);
        mount.write_at(b"lost", 0).unwrap();
        let error = mount.sync().unwrap_err();
        assert!(error.message().contains("the probe was told to fail"), "{error}");
        probe.fail_writes.store(false, Ordering::SeqCst);
        for _ in 0..3 {
            let error = mount.sync().unwrap_err();
            assert_eq!((error.code(), error.is_retryable()), (Code::Corrupt, false));
        }
        assert!(mount.close().is_err());
        mount.discard().unwrap();
        assert_eq!(attached(), Vec::<String>::new());
    }
}

#[test]
fn a_backend_that_does_not_answer_is_a_timeout_and_its_late_answer_harms_nobody() {
    let Some(_machine) = machine() else { return };
    let silent = Silent::new(MIB as u64);
    let mount = options().deadline(Duration::from_millis(300)).open(silent.clone()).unwrap();
    let file = mount.file().unwrap();
    let error = mount.read_at(&mut [0; 4096], 0).unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    assert_eq!(file.read_at(&mut [0; 4096], 65536).unwrap_err().raw_os_error(), Some(libc::EIO));
    silent.answer_all();
    thread::scope(|scope| {
        let again = scope.spawn(|| file.read_at(&mut [1; 4096], 131072));
        let begun = Instant::now();
        while !again.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            silent.answer_all();
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(again.join().unwrap().unwrap(), 4096);
    });
    drop(file);
    mount.close().unwrap();
}

#[test]
fn discarding_a_mount_ends_the_accesses_that_wait_for_a_dead_backend() {
    let Some(_machine) = machine() else { return };
    let silent = Silent::new(MIB as u64);
    let mount = options().deadline(Duration::from_secs(1)).open(silent.clone()).unwrap();
    let file = direct(&mount, 0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| file.read_at(&mut aligned(4096), 0));
        wait_until("the read is at the backend", || silent.asked() > 0);
        mount.discard().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
    });
    drop(file);
    wait_until("the device is free", || attached().is_empty());
}

#[test]
fn after_close_the_range_of_a_slice_stays_untouchable_until_its_last_holder_is_gone() {
    let Some(_machine) = machine() else { return };
    let mount = mount(memory(MIB as u64));
    let slice = mount.slice().unwrap();
    let start = slice.as_ptr() as usize;
    assert!(mapped_as(start).starts_with("rw-s"));
    assert_eq!(mount.slice().unwrap().as_ptr() as usize, start, "it is mapped once");
    mount.close().unwrap();
    assert!(mapped_as(start).starts_with("---p"));
    assert_eq!(mount.slice().err().map(|error| error.code()), Some(Code::Closed));
    assert_eq!(mount.close().unwrap_err().code(), Code::Closed);
    drop(mount);
    assert!(mapped_as(start).starts_with("---p"));
    drop(slice);
    assert!(!mapped_as(start).starts_with("---p"));
}

#[test]
fn a_named_device_is_taken_or_the_error_says_why_not() {
    let Some(_machine) = machine() else { return };
    let named = |path: &str| Mount::options().device(DeviceChoice::Nbd(Some(path.into()))).open(memory(4096)).unwrap();
    let first = named("/dev/nbd5");
    assert_eq!(first.path().unwrap().to_str(), Some("/dev/nbd5"));
    let error = named("/dev/nbd5").path().unwrap_err();
    assert_eq!(error.code(), Code::Busy);
    assert_eq!(error.message(), "/dev/nbd5 is in use: name another, or none to take a free one");
    // A free one is found beside it.
    let other = mount(memory(4096));
    assert_ne!(other.path().unwrap().to_str(), Some("/dev/nbd5"));
    other.close().unwrap();
    first.close().unwrap();
    named("/dev/nbd5").path().unwrap();

    assert_eq!(named("/dev/nbd4711").path().unwrap_err().code(), Code::NoDevice);
    let error = named("/dev/null").path().unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(error.message(), "/dev/null is not an NBD device: name one such as /dev/nbd0");
}

#[test]
fn when_every_device_is_taken_the_error_says_how_many_there_are() {
    let Some(_machine) = machine() else { return };
    let mut mounts = Vec::new();
    let error = loop {
        let next = mount(memory(4096));
        match next.path() {
            Ok(_) => mounts.push(next),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::Busy);
    assert!(error.message().starts_with(&format!("all {} NBD devices are in use", mounts.len())), "{error}");
    for mount in mounts {
        mount.close().unwrap();
    }
    assert_eq!(attached(), Vec::<String>::new());
}

#[test]
fn three_hundred_attachments_in_a_row_leave_nothing_behind() {
    let Some(_machine) = machine() else { return };
    let once = |number: u64| {
        let mount = mount(memory(MIB as u64 + number));
        let slice = mount.slice().unwrap();
        // SAFETY: nobody else touches the region.
        unsafe { slice.as_mut_slice()[number as usize] = 1 };
        if number % 3 == 0 { mount.discard().unwrap() } else { mount.close().unwrap() }
    };
    (0..3).for_each(once);
    let before = held();
    (0..300).for_each(once);
    // A thread that is done with us may need a moment more to end.
    wait_until("no more is held than before", || held().into_iter().zip(before).all(|(now, then)| now <= then));
    assert_eq!(attached(), Vec::<String>::new());
}

/// How many descriptors, threads and mappings this process has.
fn held() -> [usize; 3] {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let maps = maps.lines().filter(|line| line.contains("/dev/nbd") || line.contains("---p")).count();
    [count("/proc/self/fd"), count("/proc/self/task"), maps]
}

/// Rights and kind of the mapping at an address, as `rw-s`; empty where nothing is mapped.
fn mapped_as(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let found = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        range.contains(&address).then(|| rest.to_owned())
    });
    found.unwrap_or_default()
}

/// The device without the page cache between.
fn direct(mount: &Mount, flags: i32) -> std::fs::File {
    let path = mount.path().unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT | flags).open(path).unwrap()
}

/// Memory as O_DIRECT wants it.
fn aligned(length: usize) -> MmapMut {
    MmapMut::map_anon(length).unwrap()
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Probe>>();
};
