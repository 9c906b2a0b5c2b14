//! A backend far away: it answers in any order, and fails some requests until it is repaired.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use r3map_core::backend::{Backend, Operation, Reply, Request};
use r3map_core::{Code, Error, Info, Result};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Condvar, Mutex};

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    ended: bool,
}

pub struct Remote {
    info: Info,
    bytes: std::sync::Mutex<Vec<u8>>,
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Ranges that a write or zero under way changes.
    changing: std::sync::Mutex<Vec<Range<u64>>>,
    failing: AtomicBool,
    failures: AtomicU64,
    failed_pushes: AtomicU64,
    told_pushes: AtomicU64,
}

/// Where another thread may come between.
pub fn turn() {
    shuttle::thread::sleep(std::time::Duration::ZERO);
}

impl Remote {
    pub fn new(bytes: Vec<u8>, chunk_size: u32, failing: bool) -> Arc<Remote> {
        let info = Info { local: false, chunk_size, ..Info::local("remote", bytes.len() as u64) };
        Arc::new(Remote {
            info,
            bytes: std::sync::Mutex::new(bytes),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            changing: Default::default(),
            failing: failing.into(),
            failures: 0.into(),
            failed_pushes: 0.into(),
            told_pushes: 0.into(),
        })
    }

    /// The bytes as they are now.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// How many requests failed so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// How many of those were writes or zeroes.
    pub fn failed_pushes(&self) -> u64 {
        self.failed_pushes.load(Ordering::SeqCst)
    }

    /// And of how many of those the region knows.
    pub fn told_pushes(&self) -> u64 {
        self.told_pushes.load(Ordering::SeqCst)
    }

    /// From now on nothing fails.
    pub fn repair(&self) {
        self.failing.store(false, Ordering::SeqCst);
    }

    /// Lets [`serve`](Remote::serve) return once everything is answered.
    pub fn end(&self) {
        self.queue.lock().unwrap().ended = true;
        self.arrived.notify_all();
    }

    /// Answers requests, in any order.
    pub fn serve(&self) {
        loop {
            let mut queue = self.queue.lock().unwrap();
            while queue.requests.is_empty() && !queue.ended {
                queue = self.arrived.wait(queue).unwrap();
            }
            if queue.requests.is_empty() {
                return;
            }
            let index = thread_rng().gen_range(0..queue.requests.len());
            let request = queue.requests.swap_remove(index);
            drop(queue);
            self.answer(request);
        }
    }

    fn answer(&self, request: Request) {
        turn();
        let fails = self.failing.load(Ordering::SeqCst) && thread_rng().gen_ratio(1, 5);
        // A write that fails may have happened all the same.
        let happens = !fails || thread_rng().gen_bool(0.5);
        let changes = change_of(&request.operation);
        let reply = match request.operation {
            Operation::Read { offset, mut buffer } => {
                let end = offset as usize + buffer.len();
                buffer.copy_from_slice(&self.bytes.lock().unwrap()[offset as usize..end]);
                if buffer.iter().all(|byte| *byte == 0) { Reply::Zeroes } else { Reply::Data(buffer) }
            }
            Operation::Write { offset, data } if happens => {
                let end = offset as usize + data.len();
                self.bytes.lock().unwrap()[offset as usize..end].copy_from_slice(&data);
                Reply::Done
            }
            Operation::Zero { offset, length } if happens => {
                self.bytes.lock().unwrap()[offset as usize..(offset + length) as usize].fill(0);
                Reply::Done
            }
            _ => Reply::Done,
        };
        turn();
        if let Some(range) = &changes {
            self.changing.lock().unwrap().retain(|other| other != range);
        }
        if fails {
            self.failures.fetch_add(1, Ordering::SeqCst);
            self.failed_pushes.fetch_add(u64::from(changes.is_some()), Ordering::SeqCst);
            request.completion.complete(Err(Error::new(Code::Io, "the remote failed")));
            self.told_pushes.fetch_add(u64::from(changes.is_some()), Ordering::SeqCst);
        } else {
            request.completion.complete(Ok(reply));
        }
    }
}

fn change_of(operation: &Operation) -> Option<Range<u64>> {
    match operation {
        Operation::Write { offset, data } => Some(*offset..offset + data.len() as u64),
        Operation::Zero { offset, length } => Some(*offset..offset + length),
        _ => None,
    }
}

impl Backend for Remote {
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
        Ok(())
    }

    fn submit(self: Arc<Self>, request: Request) {
        if let Some(range) = change_of(&request.operation) {
            let mut changing = self.changing.lock().unwrap();
            let twice = changing.iter().any(|other| other.start < range.end && range.start < other.end);
            assert!(!twice, "{range:?} is pushed twice at once");
            changing.push(range);
        }
        self.queue.lock().unwrap().requests.push(request);
        self.arrived.notify_one();
    }
}
