//! One connection to the kernel: a thread that takes its requests, and the replies to them.
//!
//! What the region has at hand is answered in place, as many replies in one call as requests came in one.
//! What it has not is submitted; its completion answers, from any thread, while this one takes the next
//! request. So one miss never waits behind another.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, sendmsg, shutdown};

use crate::backend::{self, Backend, Completion, Operation, Priority, Reply};
use crate::buffer::Buffer;
use crate::device::nbd::buffer::{Input, Output};
use crate::device::nbd::care::{Care, Parked};
use crate::device::nbd::kernel::BLOCK;
use crate::device::nbd::protocol::{Command, MOST_PAYLOAD, REQUEST_SIZE, Request, reply};
use crate::error::{Code, Error, Result};

/// Replies are sent at the latest when there are so many bytes of them.
const BATCH: usize = 256 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What all connections of a device serve.
pub struct Service {
    /// The bytes.
    pub region: Arc<dyn Backend>,
    /// The requests that wait for it.
    pub care: Care,
}

impl Service {
    /// The size of the device: the region's, rounded up to whole blocks.
    pub fn device_size(&self) -> u64 {
        self.region.info().size.next_multiple_of(BLOCK)
    }

    /// How many of these bytes are the region's. What lies past its end reads as zeros and is not kept.
    fn inside(&self, request: &Request) -> usize {
        (request.length as u64).min(self.region.info().size.saturating_sub(request.offset)) as usize
    }
}

/// One connection.
pub struct Queue {
    socket: OwnedFd,
    sending: Mutex<()>,
    service: Arc<Service>,
}

impl Queue {
    /// Serves at our end of a connection.
    pub fn new(socket: OwnedFd, service: Arc<Service>) -> Queue {
        Queue { socket, sending: Mutex::new(()), service }
    }

    /// Ends the connection for both sides; its thread and the kernel's notice.
    pub fn shut(&self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Sends one reply: an error number, or 0 and `data` followed by so many zeros. A connection that is
    /// over needs no answer.
    pub fn answer(&self, cookie: [u8; 8], error: u32, data: &[u8], mut zeros: usize) {
        let header = reply(cookie, error);
        let _sending = self.sending.lock().unwrap_or_else(|e| e.into_inner());
        let mut first = [&header[..], data];
        loop {
            let step = zeros.min(ZEROS.len());
            zeros -= step;
            let mut parts = [IoSlice::new(first[0]), IoSlice::new(first[1]), IoSlice::new(&ZEROS[..step])];
            if self.send(&mut parts).is_err() || zeros == 0 {
                return;
            }
            first = [&[], &[]];
        }
    }

    fn send_batch(&self, bytes: &[u8]) -> io::Result<()> {
        let _sending = self.sending.lock().unwrap_or_else(|e| e.into_inner());
        self.send(&mut [IoSlice::new(bytes)])
    }

    /// Sends all of it. The lock is held, so that replies do not mix.
    fn send(&self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match sendmsg::<()>(self.socket.as_raw_fd(), parts, &[], MsgFlags::MSG_NOSIGNAL, None) {
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Serves the connection until either side ends it.
    pub fn serve(self: &Arc<Self>, input: Input, output: Output) {
        if let Err(error) = (Serving { queue: self, input, output }).run() {
            self.service.care.note(Error::io("serve an NBD connection", error));
        }
        self.shut();
    }

    /// Hands an operation to the region; the completion answers the request of that number.
    fn submit(self: &Arc<Self>, operation: Operation, number: u64, deadline: Option<Instant>, fua: bool) {
        let queue = self.clone();
        let completion = Completion::new(move |outcome| queue.complete(number, outcome, fua));
        let request = backend::Request { operation, priority: Priority::Demand, deadline, completion };
        let region = self.service.region.clone();
        // A local store syncs and punches in place, which may take a disk's time: not on this thread.
        let slow = matches!(request.operation, Operation::Sync | Operation::Zero { .. });
        if slow && region.info().local {
            backend::perform_on_pool(region, request);
        } else {
            region.submit(request);
        }
    }

    fn complete(self: &Arc<Self>, number: u64, outcome: Result<Reply>, fua: bool) {
        let care = &self.service.care;
        let Some(parked) = care.take(number) else { return };
        let request = &parked.request;
        let inside = self.service.inside(request);
        let tail = request.length as usize - inside;
        match (request.command, outcome) {
            (_, Err(error)) => care.fail(parked, error),
            (Some(Command::Read), Ok(Reply::Data(data))) if data.len() == inside => {
                self.answer(request.cookie, 0, &data, tail);
            }
            (Some(Command::Read), Ok(Reply::Zeroes)) => self.answer(request.cookie, 0, &[], inside + tail),
            (Some(Command::Read), Ok(_)) => {
                let error = backend::short_reply(self.service.region.info());
                care.fail(parked, error);
            }
            (_, Ok(_)) if fua => {
                let deadline = care.put_back(number, parked);
                self.submit(Operation::Sync, number, deadline, false);
            }
            (_, Ok(_)) => self.answer(request.cookie, 0, &[], 0),
        }
    }
}

/// The thread of a connection.
struct Serving<'a> {
    queue: &'a Arc<Queue>,
    input: Input,
    output: Output,
}

impl Serving<'_> {
    fn run(&mut self) -> io::Result<()> {
        while self.receive(REQUEST_SIZE)? {
            let request = self.input.take_request()?;
            let service = &self.queue.service;
            let end = request.offset.checked_add(request.length.into());
            let fits = end.is_some_and(|end| end <= service.device_size());
            match request.command {
                Some(Command::Disconnect) => break,
                Some(Command::Write) if request.length as usize > MOST_PAYLOAD => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a write of more than 32 MiB"));
                }
                Some(Command::Write) => {
                    let length = request.length as usize;
                    if !self.receive(length)? {
                        break;
                    }
                    if fits {
                        self.write(request)
                    } else {
                        self.refuse(request)
                    }
                    self.input.take(length);
                }
                Some(Command::Read) if fits && request.length as usize <= MOST_PAYLOAD => self.read(request)?,
                Some(Command::Flush) => self.submit(Operation::Sync, Request { offset: 0, length: 0, ..request }),
                Some(Command::Trim | Command::WriteZeroes) if fits => self.zero(request),
                _ => self.refuse(request),
            }
            if self.output.pending().len() >= BATCH || !self.output.has_room(0) {
                self.send()?;
            }
        }
        self.send()
    }

    /// Waits until so many bytes are here; what is answered already is sent before any wait.
    fn receive(&mut self, length: usize) -> io::Result<bool> {
        if self.input.available() >= length {
            return Ok(true);
        }
        self.send()?;
        self.input.fill(&self.queue.socket, length)
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.output.pending().is_empty() {
            self.queue.send_batch(self.output.pending())?;
            self.output.clear();
        }
        Ok(())
    }

    fn read(&mut self, request: Request) -> io::Result<()> {
        let length = request.length as usize;
        if !self.output.has_room(length) {
            self.send()?;
            self.output.grow(length)?;
        }
        let service = &self.queue.service;
        let inside = service.inside(&request);
        let (bytes, tail) = self.output.payload(length).split_at_mut(inside);
        match in_place(inside, || service.region.try_read_at(bytes, request.offset)) {
            Some(Ok(())) => {
                tail.fill(0);
                self.output.push(request.cookie, length);
            }
            Some(Err(error)) => self.fail(request, error),
            None => {
                self.submit(Operation::Read { offset: request.offset, buffer: Buffer::new(inside) }, request);
            }
        }
        Ok(())
    }

    fn write(&mut self, request: Request) {
        let service = &self.queue.service;
        let data = &self.input.bytes(request.length as usize)[..service.inside(&request)];
        match in_place(data.len(), || service.region.try_write_at(data, request.offset)) {
            Some(Ok(())) if request.fua => self.submit(Operation::Sync, Request { fua: false, ..request }),
            Some(Ok(())) => self.output.push(request.cookie, 0),
            Some(Err(error)) => self.fail(request, error),
            None => {
                let data = Buffer::copy_of(data);
                self.submit(Operation::Write { offset: request.offset, data }, request);
            }
        }
    }

    fn zero(&mut self, request: Request) {
        match self.queue.service.inside(&request) as u64 {
            0 => self.output.push(request.cookie, 0),
            length => self.submit(Operation::Zero { offset: request.offset, length }, request),
        }
    }

    fn submit(&mut self, operation: Operation, request: Request) {
        let (number, deadline) = self.queue.service.care.park(self.queue, request);
        self.queue.submit(operation, number, deadline, request.fua);
    }

    fn fail(&mut self, request: Request, error: Error) {
        let parked = Parked { queue: self.queue.clone(), request, deadline: None };
        self.queue.service.care.fail(parked, error);
    }

    fn refuse(&mut self, request: Request) {
        let message = format!("no such request to a device of {} bytes", self.queue.service.device_size());
        self.fail(request, Error::new(Code::InvalidArgument, message));
    }
}

/// Nothing to do is done at once.
fn in_place(length: usize, access: impl FnOnce() -> Option<Result<()>>) -> Option<Result<()>> {
    if length == 0 { Some(Ok(())) } else { access() }
}
