//! One test a row of the table of page states in the design, over a backend that answers when told to. What any
//! order of threads does to them is tests/t420_interleaving.

use std::sync::Mutex;

use super::*;
use crate::backend::memory::memory_file;
use crate::backend::{Operation, Request};
use crate::cancel::{Limit, Waiter};

const PAGES: u64 = 4;
const SIZE: u64 = PAGES * PAGE;

/// A backend that keeps every request until the test answers it.
struct Held {
    info: Info,
    requests: Mutex<Vec<Request>>,
}

impl Backend for Held {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<()> {
        unreachable!("a region submits")
    }
    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        unreachable!("a region submits")
    }
    fn sync(&self) -> Result<()> {
        unreachable!("a region submits")
    }
    fn submit(self: Arc<Self>, request: Request) {
        self.requests.lock().unwrap().push(request);
    }
}

/// What a place is told: the pages that are here, as bits.
#[derive(Default)]
struct Told(Mutex<u64>);

impl Ledger for Told {
    fn here(&self, pages: Range<u64>) {
        pages.for_each(|page| *self.0.lock().unwrap() |= 1 << page);
    }
    fn gone(&self, pages: Range<u64>) {
        pages.for_each(|page| *self.0.lock().unwrap() &= !(1 << page));
    }
}

struct Bed {
    region: Arc<Region>,
    backend: Arc<Held>,
}

impl Bed {
    fn new() -> Bed {
        let info = Info { local: false, chunk_size: 2 * PAGE as u32, ..Info::local("held", SIZE) };
        let backend = Arc::new(Held { info, requests: Mutex::default() });
        let store = memory_file(c"pages", SIZE).unwrap();
        Bed { region: Arc::new(Region::new(backend.clone(), store, None).unwrap()), backend }
    }

    /// A region in a place of its own, in which something lies already.
    fn owning() -> (Bed, Arc<Told>) {
        let mut bed = Bed::new();
        let (store, told) = (memory_file(c"place", SIZE).unwrap(), Arc::new(Told::default()));
        store.write_all_at(&[99; SIZE as usize], 0).unwrap();
        let region = Region::owning(bed.backend.clone(), store, None, told.clone(), Arc::default()).unwrap();
        bed.region = Arc::new(region);
        (bed, told)
    }

    /// The byte with which a page begins in the store, whatever its state.
    fn kept(&self, page: u64) -> u8 {
        let mut byte = [0];
        self.region.store.read_exact_at(&mut byte, page * PAGE).unwrap();
        byte[0]
    }

    /// The oldest request that was not answered; there must be one.
    fn request(&self) -> Request {
        let mut requests = self.backend.requests.lock().unwrap();
        assert!(!requests.is_empty(), "nothing was asked of the backend");
        requests.remove(0)
    }

    fn asked(&self) -> usize {
        self.backend.requests.lock().unwrap().len()
    }

    /// Answers a read with bytes of this value.
    fn bring(&self, request: Request, value: u8) {
        let Operation::Read { mut buffer, .. } = request.operation else { panic!("not a read") };
        buffer.fill(value);
        request.completion.complete(Ok(Reply::Data(buffer)));
    }

    fn fail(&self, request: Request) {
        request.completion.complete(Err(Error::new(Code::Io, "told to fail")));
    }

    fn states(&self) -> Vec<State> {
        (0..PAGES).map(|page| self.region.states.get(page)).collect()
    }

    /// Puts a page into a state that takes other means to reach.
    fn force(&self, page: u64, state: State) {
        assert!(self.region.states.step(page, self.region.states.get(page), state));
    }

    fn ahead() -> Ahead {
        Arc::new(|pages| Want::only(pages.start..pages.start + 1))
    }

    fn wait(&self, begin: impl FnOnce(Wait)) -> Waiter<Result<Reply>> {
        let (waiter, notifier) = Waiter::new();
        begin(Wait { completion: Completion::new(move |outcome| notifier.notify(outcome)), deadline: None });
        waiter
    }

    fn read(&self, offset: u64, length: usize) -> Waiter<Result<Reply>> {
        self.wait(|wait| self.region.read(Buffer::new(length), offset, wait, Bed::ahead()))
    }

    fn write(&self, value: u8, offset: u64, length: usize) -> Waiter<Result<Reply>> {
        self.wait(|wait| self.region.write(Buffer::copy_of(&vec![value; length]), offset, wait, Bed::ahead()))
    }

    /// Writes what needs nothing brought.
    fn put(&self, value: u8, offset: u64, length: usize) {
        self.region.try_write(&vec![value; length], offset).expect("nothing to wait for").unwrap();
    }

    fn zero(&self, pages: Range<u64>) {
        let (offset, length) = (pages.start * PAGE, (pages.end - pages.start) * PAGE);
        done(self.wait(|wait| self.region.zero(offset, length, wait, Bed::ahead()))).unwrap();
    }

    /// The bytes that are here.
    fn here(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xEE; length];
        self.region.try_read(&mut bytes, offset).expect("here").unwrap();
        bytes
    }

    /// What a push carries.
    fn pushed(&self, request: &Request) -> (u64, Vec<u8>) {
        match &request.operation {
            Operation::Write { offset, data } => (*offset, data.to_vec()),
            Operation::Zero { offset, length } => (*offset, vec![0; *length as usize]),
            _ => panic!("not a push"),
        }
    }
}

/// The outcome, which must be there.
fn done(waiter: Waiter<Result<Reply>>) -> Result<Vec<u8>> {
    let soon = Limit::within(std::time::Duration::from_millis(1));
    waiter.wait(&soon, "the outcome is not there").expect("an outcome").map(|reply| match reply {
        Reply::Data(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    })
}

const P: usize = PAGE as usize;
use State::{Absent, Clean, Dirty, Evicting, Fetching, Pushing, Quiet, Redirtied, Zero, ZeroDirty, ZeroPushing};

#[test]
fn absent_to_fetching_asks_once_and_whoever_comes_later_waits_in_the_same_fetch() {
    let bed = Bed::new();
    assert_eq!(bed.region.fetch(0..2, None), 2 * PAGE);
    assert_eq!(bed.region.fetch(0..2, None), 0, "it is on its way");
    let (one, other) = (bed.read(0, P), bed.read(5, 10));
    assert_eq!((bed.asked(), bed.states()), (1, vec![Fetching, Fetching, Absent, Absent]));
    bed.bring(bed.request(), 7);
    assert_eq!((done(one).unwrap(), done(other).unwrap()), (vec![7; P], vec![7; 10]));
}

#[test]
fn fetching_to_clean_or_zero_and_nothing_is_installed_again() {
    let bed = Bed::new();
    bed.region.fetch(0..4, None);
    bed.bring(bed.request(), 7);
    bed.request().completion.complete(Ok(Reply::Zeroes));
    assert_eq!(bed.states(), [Clean, Clean, Zero, Zero]);
    assert_eq!((bed.here(0, P), bed.here(3 * PAGE, P)), (vec![7; P], vec![0; P]));
    assert_eq!(bed.region.fetching_bytes(), 0);
    // A demand asks again for what bulk has under way; the second to land finds nothing to do.
    let bed = Bed::new();
    bed.region.fetch(0..2, None);
    let (waiter, notifier) = Waiter::new();
    let want = Want { again: Again::YES, ..Want::only(1..2) };
    bed.region.demand(1, want, None, Box::new(move |landed| notifier.notify(landed.map(|()| Reply::Done))));
    let (bulk, demand) = (bed.request(), bed.request());
    bed.bring(demand, 8);
    done(waiter).unwrap();
    bed.put(9, PAGE, 10);
    bed.bring(bulk, 7);
    assert_eq!(bed.states(), [Clean, Dirty, Absent, Absent]);
    assert_eq!(bed.here(PAGE, 12), [&[9; 10][..], &[8; 2]].concat(), "a written page is not fetched over");
}

#[test]
fn fetching_to_absent_tells_who_waits_and_the_next_asks_anew() {
    let bed = Bed::new();
    let reader = bed.read(0, P);
    bed.fail(bed.request());
    assert_eq!(done(reader).unwrap_err().message(), "told to fail");
    assert_eq!(bed.states(), [Absent; 4]);
    let reader = bed.read(0, P);
    bed.bring(bed.request(), 3);
    assert_eq!(done(reader).unwrap(), [3; P]);
}

#[test]
fn a_writer_of_the_whole_page_waits_for_nothing_and_a_fetch_under_way_is_lost() {
    let bed = Bed::new();
    bed.force(3, Zero);
    bed.region.fetch(1..3, None);
    bed.put(5, 0, P);
    bed.put(6, PAGE, P);
    bed.put(8, 3 * PAGE, P);
    assert_eq!(bed.states(), [Dirty, Dirty, Fetching, Dirty]);
    // Were it absent again by now, what the fetch brings would still be from before.
    bed.force(1, Fetching);
    bed.bring(bed.request(), 1);
    bed.bring(bed.request(), 1);
    assert_eq!(bed.states(), [Dirty, Absent, Clean, Dirty]);
    assert_eq!((bed.here(0, P), bed.here(3 * PAGE, P)), (vec![5; P], vec![8; P]));
}

#[test]
fn a_writer_of_part_of_a_page_waits_for_it_or_fills_a_zero_one() {
    let bed = Bed::new();
    for (page, state) in [(0, Zero), (1, ZeroDirty), (2, ZeroPushing)] {
        bed.force(page, state);
        bed.put(5, page * PAGE + 100, 50);
        let whole = bed.here(page * PAGE, P);
        assert_eq!((&whole[..100], &whole[100..150], &whole[150..]), (&[0; 100][..], &[5; 50][..], &[0; P - 150][..]));
    }
    assert_eq!(bed.states(), [Dirty, Dirty, Redirtied, Absent]);
    assert!(bed.region.try_write(&[5; 50], 3 * PAGE + 100).is_none());
    let writer = bed.write(5, 3 * PAGE + 100, 50);
    bed.bring(bed.request(), 7);
    done(writer).unwrap();
    assert_eq!(bed.here(3 * PAGE + 99, 52), [&[7][..], &[5; 50], &[7]].concat());
    assert_eq!(bed.states()[3], Dirty);
}

#[test]
fn a_writer_marks_clean_dirty_pushing_redirtied_and_evicting_dirty() {
    let bed = Bed::new();
    bed.region.fetch(0..4, None);
    bed.bring(bed.request(), 1);
    bed.bring(bed.request(), 1);
    bed.force(1, Pushing);
    bed.force(2, Evicting);
    bed.force(3, Redirtied);
    bed.put(2, 10, SIZE as usize - 20);
    assert_eq!(bed.states(), [Dirty, Redirtied, Dirty, Redirtied]);
    assert_eq!(bed.here(8, 4), [1, 1, 2, 2]);
}

#[test]
fn dirty_to_pushing_takes_a_snapshot_and_no_page_is_pushed_twice_at_once() {
    let bed = Bed::new();
    bed.put(5, 0, 2 * P);
    assert_eq!(bed.region.push_next(0, None), Some(2));
    assert_eq!(bed.region.push_next(0, None), None, "it is on its way");
    assert_eq!((bed.asked(), bed.states()), (1, vec![Pushing, Pushing, Absent, Absent]));
    bed.put(6, 0, P);
    assert_eq!(bed.region.push_next(0, None), None, "it has to land first");
    let push = bed.request();
    assert_eq!(bed.pushed(&push), (0, vec![5; 2 * P]), "the bytes of the moment it was taken");
    assert_eq!((bed.region.pushing_bytes(), bed.region.dirty_bytes()), (2 * PAGE, 2 * PAGE));
}

#[test]
fn a_push_acknowledged_leaves_clean_what_stayed_and_dirty_what_was_written_meanwhile() {
    let bed = Bed::new();
    bed.put(5, 0, 2 * P);
    bed.zero(2..4);
    assert_eq!(bed.region.push_next(0, None), Some(2));
    assert_eq!(bed.region.push_next(2, None), Some(4));
    bed.put(6, PAGE, 1);
    bed.put(6, 3 * PAGE, 1);
    assert_eq!(bed.states(), [Pushing, Redirtied, ZeroPushing, Redirtied]);
    bed.request().completion.complete(Ok(Reply::Done));
    bed.request().completion.complete(Ok(Reply::Done));
    assert_eq!(bed.states(), [Clean, Dirty, Zero, Dirty]);
    bed.region.push_next(0, None);
    assert_eq!(bed.pushed(&bed.request()).1[..2], [6, 5]);
    assert_eq!(bed.region.figures.pushed.get(), 4 * PAGE);
}

#[test]
fn a_push_that_failed_leaves_every_page_dirty_and_the_failure_stands_until_one_gets_through() {
    let bed = Bed::new();
    bed.put(5, 0, 2 * P);
    bed.zero(2..3);
    bed.region.push_next(0, None);
    bed.region.push_next(2, None);
    bed.put(6, PAGE, 1);
    bed.fail(bed.request());
    bed.fail(bed.request());
    assert_eq!(bed.states(), [Dirty, Dirty, ZeroDirty, Absent]);
    assert_eq!(bed.region.push_failure().unwrap().message(), "told to fail");
    bed.region.push_next(0, None);
    bed.request().completion.complete(Ok(Reply::Done));
    assert!(bed.region.push_failure().is_none());
    assert_eq!((bed.states(), bed.region.dirty_bytes()), (vec![Clean, Clean, ZeroDirty, Absent], PAGE));
}

#[test]
fn a_push_that_failed_is_told_once_even_if_another_got_through_since() {
    let bed = Bed::new();
    let mut told = 0;
    bed.put(5, 0, P);
    bed.region.push_next(0, None);
    bed.fail(bed.request());
    bed.put(6, PAGE, P);
    bed.region.push_next(1, None);
    bed.request().completion.complete(Ok(Reply::Done));
    assert!(bed.region.push_failure().is_none());
    assert_eq!(bed.region.push_failure_since(&mut told).unwrap().message(), "told to fail");
    assert!(bed.region.push_failure_since(&mut told).is_none());
}

#[test]
fn a_trim_gives_zero_dirty_without_moving_bytes_and_a_fetch_under_way_is_lost() {
    let bed = Bed::new();
    bed.region.fetch(0..2, None);
    bed.bring(bed.request(), 1);
    bed.put(2, PAGE, P);
    bed.region.fetch(2..3, None);
    bed.zero(0..4);
    assert_eq!((bed.states(), bed.here(0, SIZE as usize)), (vec![ZeroDirty; 4], vec![0; SIZE as usize]));
    bed.force(2, Fetching);
    bed.bring(bed.request(), 1);
    assert_eq!(bed.states()[2], Absent, "what it brought is from before the trim");
    bed.force(2, ZeroDirty);
    assert_eq!(bed.region.push_next(0, None), Some(4));
    let push = bed.request();
    assert!(matches!(push.operation, Operation::Zero { offset: 0, length: SIZE }));
    assert_eq!(bed.states(), [ZeroPushing; 4]);
    push.completion.complete(Ok(Reply::Done));
    assert_eq!(bed.states(), [Zero; 4]);
    bed.zero(0..4);
    assert_eq!(bed.region.push_next(0, None), None, "the backend has these zeroes");
}

#[test]
fn a_second_fetch_that_fails_fails_nobody_whose_page_the_first_one_brought() {
    let bed = Bed::new();
    bed.region.fetch(0..2, None);
    let again: Ahead = Arc::new(|pages| Want { again: Again::YES, ..Want::only(pages.start..pages.start + 1) });
    let read = bed.wait(|wait| bed.region.read(Buffer::new(P), 0, wait, again.clone()));
    assert_eq!(bed.asked(), 2);
    let (first, second) = (bed.request(), bed.request());
    bed.bring(first, 7);
    bed.fail(second);
    assert_eq!(done(read).unwrap(), vec![7; P]);

    // One whose page nobody brought hears of it.
    let read = bed.wait(|wait| bed.region.read(Buffer::new(P), 2 * PAGE, wait, again));
    bed.fail(bed.request());
    assert_eq!(done(read).unwrap_err().code(), Code::Io);
}

#[test]
fn a_trim_of_a_page_being_pushed_is_dirty_again_and_reads_zero() {
    let bed = Bed::new();
    bed.put(5, 0, P);
    bed.region.push_next(0, None);
    bed.zero(0..1);
    assert_eq!((bed.states()[0], bed.here(0, P)), (Redirtied, vec![0; P]));
    bed.request().completion.complete(Ok(Reply::Done));
    bed.region.push_next(0, None);
    assert_eq!(bed.pushed(&bed.request()), (0, vec![0; P]));
}

#[test]
fn dirty_to_quiet_at_a_look_but_for_those_left_and_a_writer_makes_it_dirty_again() {
    let bed = Bed::new();
    bed.put(5, 0, 3 * P);
    bed.zero(3..4);
    assert_eq!(bed.region.quieten(|page| page == 1), 2);
    assert_eq!(bed.states(), [Quiet, Dirty, Quiet, ZeroDirty]);
    assert_eq!((bed.here(0, 3 * P), bed.region.dirty_bytes()), (vec![5; 3 * P], SIZE));
    bed.put(6, 100, 1);
    assert_eq!(bed.states(), [Dirty, Dirty, Quiet, ZeroDirty]);
    bed.zero(2..3);
    assert_eq!((bed.states()[2], bed.here(2 * PAGE, P)), (ZeroDirty, vec![0; P]));
}

#[test]
fn quiet_to_pushing_alone_takes_long_runs_and_with_dirty_ones_whatever_there_is() {
    let bed = Bed::new();
    bed.put(5, 0, SIZE as usize);
    bed.region.quieten(|page| page == 1);
    assert_eq!(bed.region.push_quiet(0, 3, None), None, "no run is that long");
    assert_eq!(bed.region.push_quiet(0, 2, None), Some(vec![2..4]));
    assert_eq!(bed.states(), [Quiet, Dirty, Pushing, Pushing]);
    assert_eq!(bed.pushed(&bed.request()), (2 * PAGE, vec![5; 2 * P]), "and it failed, since nobody answered");
    assert_eq!(bed.states(), [Quiet, Dirty, Dirty, Dirty]);
    bed.region.push_next(0, None);
    assert_eq!(bed.states(), [Pushing; 4]);
}

#[test]
fn quiet_to_pushing_tells_of_each_piece_of_a_run_that_a_writer_split() {
    let bed = Bed::new();
    bed.put(5, 0, SIZE as usize);
    bed.region.quieten(|_| false);
    bed.put(6, PAGE, P);
    assert_eq!(bed.region.push_quiet_of(0..4, None), [0..1, 2..4]);
    assert_eq!(bed.states(), [Pushing, Dirty, Pushing, Pushing]);
    assert_eq!(bed.region.push_quiet_of(0..4, None), [] as [std::ops::Range<u64>; 0]);
}

#[test]
fn a_sync_succeeds_once_every_page_is_acknowledged_and_fails_with_what_failed() {
    let bed = Bed::new();
    for page in 0..3 {
        bed.put(page as u8, page * PAGE, P);
    }
    // A page of each kind in one run: dirty, zero, dirty.
    bed.zero(1..2);
    let answer = |fail: bool| {
        let backend = bed.backend.clone();
        let mut pushes = 0;
        let region = bed.region.clone();
        let sync =
            std::thread::spawn(move || region.push_all(SIZE, &Limit::within(std::time::Duration::from_secs(20))));
        while !sync.is_finished() {
            for request in std::mem::take(&mut *backend.requests.lock().unwrap()) {
                pushes += 1;
                if fail { bed.fail(request) } else { request.completion.complete(Ok(Reply::Done)) }
            }
            std::thread::yield_now();
        }
        (sync.join().unwrap(), pushes)
    };
    let (failed, pushes) = answer(true);
    assert_eq!((failed.unwrap_err().message(), pushes), ("told to fail", 6), "three pushes, each tried twice");
    let (synced, pushes) = answer(false);
    synced.unwrap();
    assert_eq!((pushes, bed.states()), (3, vec![Clean, Zero, Clean, Absent]));
}

#[test]
fn who_waits_for_local_pages_is_told_of_those_that_were_written_whole() {
    let bed = Bed::new();
    let looks = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let limit = Limit::within(std::time::Duration::from_secs(20));
            bed.region.figures.landed.wait(&limit, "wait", || {
                looks.fetch_add(1, Ordering::SeqCst);
                (bed.region.local_bytes() == SIZE).then_some(())
            })
        });
        // It looks a second time once it is known to wait.
        while looks.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        bed.put(1, 0, SIZE as usize);
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn forgotten_pages_are_absent_and_what_is_on_its_way_for_them_is_lost() {
    let (bed, told) = Bed::owning();
    let fetch = bed.read(0, 2 * PAGE as usize);
    bed.bring(bed.request(), 1);
    done(fetch).unwrap();
    bed.put(2, 3 * PAGE, PAGE as usize);
    assert_eq!(*told.0.lock().unwrap(), 0b1011);
    let waiting = bed.read(2 * PAGE, PAGE as usize);
    let late = bed.request();
    bed.region.forget(1..4).unwrap();
    assert_eq!(bed.states(), [State::Clean, State::Absent, State::Absent, State::Absent]);
    assert_eq!(*told.0.lock().unwrap(), 0b0001);
    // Whoever waits asks again, and gets what is newer.
    bed.bring(late, 3);
    assert_eq!(bed.region.states.get(2), State::Fetching);
    bed.bring(bed.request(), 4);
    assert_eq!(done(waiting).unwrap(), [4; PAGE as usize]);
    assert_eq!((bed.asked(), *told.0.lock().unwrap()), (0, 0b0101));
}

#[test]
fn in_a_place_of_its_own_zeros_leave_no_older_bytes_behind() {
    let (bed, told) = Bed::owning();
    let read = bed.read(0, PAGE as usize);
    bed.request().completion.complete(Ok(Reply::Zeroes));
    done(read).unwrap();
    assert_eq!(bed.states(), [State::Zero, State::Absent, State::Absent, State::Absent]);
    let fetch = bed.read(PAGE, PAGE as usize);
    bed.zero(1..3);
    assert_eq!(bed.states(), [State::Zero, State::ZeroDirty, State::ZeroDirty, State::Absent]);
    bed.bring(bed.request(), 5);
    assert_eq!(done(fetch).unwrap(), [0; PAGE as usize]);
    assert_eq!((0..PAGES).map(|page| bed.kept(page)).collect::<Vec<_>>(), [0, 0, 0, 99]);
    assert_eq!(*told.0.lock().unwrap(), 0b0111);
}

#[test]
fn what_lies_in_its_place_is_right_as_it_is_where_the_backend_says_so() {
    let (bed, told) = Bed::owning();
    let read = bed.read(0, PAGE as usize);
    bed.request().completion.complete(Ok(Reply::Done));
    assert_eq!(done(read).unwrap(), [99; PAGE as usize]);
    assert_eq!((bed.states()[0], *told.0.lock().unwrap()), (State::Clean, 0b0001));
    // Of a cache it would be no answer.
    let bed = Bed::new();
    let read = bed.read(0, PAGE as usize);
    bed.request().completion.complete(Ok(Reply::Done));
    assert_eq!(done(read).unwrap_err().code(), Code::Internal);
}
