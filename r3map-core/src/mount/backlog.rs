//! Holds writers back while more is dirty than shall be: what waits to be pushed takes memory and is here alone, and
//! every sync waits for all of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::cancel::{Limit, Signal};
use crate::error::{Error, Result};
use crate::region::Region;
use crate::thread;

/// The most bytes that wait to be pushed: this, or an eighth of the host's memory.
const MOST: u64 = 1 << 30;

/// What goes on with a write once there is room for it, or hears why there is none.
type GoOn = Box<dyn FnOnce(Result<()>) + Send>;

/// The dirty pages of a region as those see them who want to add to them.
pub struct Backlog {
    region: Arc<Region>,
    most: AtomicU64,
    /// Whether what is dirty leaves in the background; if not, nobody waits for that.
    leaves: AtomicBool,
    parked: Mutex<Parked>,
    /// Set by who has to wait, for the pusher.
    hurry: AtomicBool,
    wake: Arc<Signal>,
}

#[derive(Default)]
struct Parked {
    /// Those who came first have the first deadlines.
    writes: Vec<(Option<Instant>, GoOn)>,
    /// Whether there is a thread that waits with them.
    attended: bool,
}

impl Backlog {
    /// Of a region whose pusher is woken so.
    pub fn new(region: Arc<Region>, wake: Arc<Signal>) -> Backlog {
        let memory = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
        Backlog {
            region,
            most: MOST.min(memory / 8).into(),
            leaves: false.into(),
            parked: Mutex::default(),
            hurry: false.into(),
            wake,
        }
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether as much is dirty as may be.
    pub fn is_reached(&self) -> bool {
        self.region.kept_dirty_bytes() >= self.most.load(Ordering::Relaxed)
    }

    /// Whether a writer has to wait.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.leaves.load(Ordering::SeqCst) && self.is_reached()
    }

    /// From now on what is dirty leaves in the background, or stays.
    pub fn set_leaves(&self, leaves: bool) {
        self.leaves.store(leaves, Ordering::SeqCst);
        self.region.tell_pushes();
    }

    /// Whether somebody has had to wait since this was asked last.
    pub fn is_hurried(&self) -> bool {
        self.hurry.swap(false, Ordering::SeqCst)
    }

    /// Lets a write go on from a thread of its own when there is room, or fail at its deadline.
    pub fn park(self: &Arc<Self>, deadline: Option<Instant>, go_on: impl FnOnce(Result<()>) + Send + 'static) {
        let mut parked = self.parked();
        parked.writes.push((deadline, Box::new(go_on)));
        let attended = std::mem::replace(&mut parked.attended, true);
        drop(parked);
        self.hurry.store(true, Ordering::SeqCst);
        self.wake.signal();
        if attended {
            return;
        }
        let backlog = self.clone();
        if let Err(error) = thread::spawn("r3map-room", move || backlog.attend()) {
            let error = Error::io("start a thread that waits for pushes", error);
            let writes = std::mem::take(&mut *self.parked()).writes;
            writes.into_iter().for_each(|(_, go_on)| go_on(Err(error.clone())));
        }
    }

    /// Waits with the writes that are parked until none is.
    fn attend(&self) {
        loop {
            let due = self.parked().writes.first().and_then(|(deadline, _)| *deadline);
            let has_room = || !self.is_full();
            let room = self.region.wait_pushes(&Limit { deadline: due, cancel: None }, "write", has_room);
            let room = room.map_err(|error| self.explain(error));
            let now = Instant::now();
            let is_late = |deadline: &Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
            let mut parked = self.parked();
            let count = match room {
                Ok(()) => parked.writes.len(),
                Err(_) => parked.writes.iter().take_while(|(deadline, _)| is_late(deadline)).count(),
            };
            let writes: Vec<_> = parked.writes.drain(..count).collect();
            parked.attended = !parked.writes.is_empty();
            let goes_on = parked.attended;
            drop(parked);
            writes.into_iter().for_each(|(_, go_on)| go_on(room.clone()));
            if !goes_on {
                return;
            }
        }
    }

    /// Why there was no room before the deadline.
    fn explain(&self, error: Error) -> Error {
        let cause = match self.region.push_failure() {
            Some(cause) => format!("the last push failed: {}", cause.message()),
            None => "pushes are slower than writes".to_owned(),
        };
        let (name, waiting) = (&self.region.info().name, self.region.kept_dirty_bytes());
        let message =
            format!("{name}: write: {waiting} bytes wait to be pushed, and there was no room for more: {cause}");
        Error::new(error.code(), message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::time::Duration;

    use super::*;
    use crate::backend::memory::Memory;
    use crate::backend::{Backend, Info};
    use crate::error::Code;
    use crate::mount::Mount;
    use crate::options::{DeviceChoice, Mode, MountOptions};
    use crate::page::PAGE;
    use crate::skip;

    const SIZE: u64 = 4 << 20;
    const FOREVER: Duration = Duration::from_secs(86400);

    /// A store that takes writes only while it is open, and may refuse them.
    struct Door {
        info: Info,
        bytes: Memory,
        open: Mutex<bool>,
        opened: Condvar,
        refuses: AtomicBool,
    }

    impl Door {
        fn shut() -> Arc<Door> {
            Arc::new(Door {
                info: Info { local: false, ..Info::local("door", SIZE) },
                bytes: Memory::new(SIZE).unwrap(),
                open: Mutex::new(false),
                opened: Condvar::new(),
                refuses: false.into(),
            })
        }

        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    impl Backend for Door {
        fn info(&self) -> &Info {
            &self.info
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
            self.bytes.read_at(buffer, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
            if self.refuses.load(Ordering::SeqCst) {
                return Err(Error::new(Code::Io, "the disk is full"));
            }
            let open = self.open.lock().unwrap();
            let _open = self.opened.wait_timeout_while(open, Duration::from_secs(60), |open| !*open).unwrap();
            self.bytes.write_at(data, offset)
        }
        fn sync(&self) -> Result<()> {
            Ok(())
        }
    }

    /// A mount of it with room for half a mebibyte of dirty pages.
    fn mounted(door: &Arc<Door>, device: DeviceChoice, deadline: Duration) -> (Mount, Arc<Backlog>) {
        let options = Mount::options().mode(Mode::Managed).device(device).deadline(deadline);
        let mount = MountOptions { push_interval: FOREVER, ..options }.open(door.clone()).unwrap();
        mount.pull(0, SIZE).unwrap();
        let backlog = mount.inner.kept().unwrap().pusher().backlog().clone();
        backlog.most.store(SIZE / 8, Ordering::SeqCst);
        (mount, backlog)
    }

    fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < patience, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn waits_for_room(device: DeviceChoice) {
        let door = Door::shut();
        let (mount, backlog) = mounted(&door, device.clone(), Duration::from_secs(60));
        if device != DeviceChoice::Auto {
            mount.path().unwrap();
        }
        let data: Vec<u8> = (0..SIZE).map(|at| (at / PAGE) as u8 | 1).collect();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let step = SIZE / 16;
                for offset in (0..SIZE).step_by(step as usize) {
                    mount.write_at(&data[offset as usize..(offset + step) as usize], offset).unwrap();
                }
                mount.sync().unwrap();
            });
            eventually("a write is parked", || !backlog.parked().writes.is_empty());
            let dirty = mount.stats().unwrap().get("dirty_bytes").unwrap();
            assert!((SIZE / 8..SIZE).contains(&dirty), "{dirty} bytes are dirty");
            mount.inner.kept().unwrap().read_at(&mut [0; 1000], 100).unwrap();
            assert!(!writer.is_finished());
            door.open();
            writer.join().unwrap();
        });
        let mut bytes = vec![0; SIZE as usize];
        door.bytes.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == data);
        mount.close().unwrap();
        eventually("the thread that waits ends", || !backlog.parked().attended);
    }

    #[test]
    fn a_writer_of_the_handle_waits_while_as_much_is_dirty_as_may_be() {
        waits_for_room(DeviceChoice::Auto);
    }

    #[test]
    fn a_writer_of_a_fuse_file_waits_while_as_much_is_dirty_as_may_be() {
        match crate::device::Kind::Fuse.probe() {
            Ok(()) => waits_for_room(DeviceChoice::Fuse),
            Err(error) => skip::skip(error),
        }
    }

    #[test]
    fn a_writer_of_a_block_device_waits_while_as_much_is_dirty_as_may_be() {
        match crate::device::Kind::Nbd.probe() {
            Ok(()) => waits_for_room(DeviceChoice::Nbd(None)),
            Err(error) => skip::leave_to_guest(error),
        }
    }

    #[test]
    fn who_waits_in_vain_hears_why_and_the_mount_goes_on_once_pushes_get_through() {
        let door = Door::shut();
        door.refuses.store(true, Ordering::SeqCst);
        let (mount, _) = mounted(&door, DeviceChoice::Auto, Duration::from_millis(300));
        let piece = vec![7; (SIZE / 8) as usize];
        mount.write_at(&piece, 0).unwrap();
        let error = mount.write_at(&piece, SIZE / 2).unwrap_err();
        assert_eq!(error.code(), Code::Timeout, "{error:?}");
        let message =
            "door: write: 524288 bytes wait to be pushed, and there was no room for more: the last push failed";
        assert!(error.message().starts_with(message) && error.message().ends_with("the disk is full"), "{error:?}");
        let error = mount.sync().unwrap_err();
        assert!(error.message().contains("the disk is full"), "{error:?}");
        door.refuses.store(false, Ordering::SeqCst);
        door.open();
        eventually("a write gets through", || mount.write_at(&piece, SIZE / 2).is_ok());
        eventually("a sync gets through", || mount.sync().is_ok());
        let mut bytes = vec![0; SIZE as usize];
        door.bytes.read_at(&mut bytes, 0).unwrap();
        let half = SIZE as usize / 2;
        assert!(bytes[..piece.len()] == piece && bytes[half..half + piece.len()] == piece);
        mount.close().unwrap();
    }

    #[test]
    fn where_nothing_leaves_in_the_background_nobody_waits() {
        let door = Door::shut();
        let options = MountOptions { push_interval: Duration::ZERO, ..Mount::options().mode(Mode::Managed) };
        let mount = options.open(door.clone()).unwrap();
        mount.inner.kept().unwrap().pusher().backlog().most.store(PAGE, Ordering::SeqCst);
        mount.write_at(&vec![1; SIZE as usize], 0).unwrap();
        mount.discard().unwrap();
    }
}
