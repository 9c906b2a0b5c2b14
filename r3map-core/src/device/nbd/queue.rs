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
use crate::error::{Code, Error, Result};
use crate::wire::nbd::{Command, MOST_PAYLOAD, REQUEST_SIZE, Request, command_flags, reply};

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
            Some(Ok(())) if request.is_fua() => self.submit(Operation::Sync, request.without(command_flags::FUA)),
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
        self.queue.submit(operation, number, deadline, request.is_fua());
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::thread::JoinHandle;
    use std::time::Duration;

    use super::*;
    use crate::backend::Info;
    use crate::backend::memory::Memory;
    use crate::wire::nbd::tests::request;

    const FUA: u16 = 1;
    const READ: u16 = 0;
    const WRITE: u16 = 1;
    const DISCONNECT: u16 = 2;
    const FLUSH: u16 = 3;
    const TRIM: u16 = 4;
    const WRITE_ZEROES: u16 = 6;

    /// The kernel's side of a connection, played by a test.
    struct Kernel {
        socket: UnixStream,
        threads: Vec<JoinHandle<()>>,
        service: Arc<Service>,
    }

    impl Kernel {
        fn of(region: Arc<dyn Backend>, deadline: Duration) -> Kernel {
            let service = Arc::new(Service { region, care: Care::new("test:".into(), deadline) });
            let (socket, ours) = UnixStream::pair().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let queue = Arc::new(Queue::new(ours.into(), service.clone()));
            let cared = service.clone();
            let threads = vec![
                std::thread::spawn(move || queue.serve(Input::new().unwrap(), Output::new().unwrap())),
                std::thread::spawn(move || cared.care.run()),
            ];
            Kernel { socket, threads, service }
        }

        fn send(&mut self, flags: u16, command: u16, number: u8, offset: u64, length: u32) {
            self.socket.write_all(&request(flags, command, [number; 8], offset, length)).unwrap();
        }

        /// The number and the error of the next reply, and so much payload where it is no error.
        fn reply(&mut self, payload: usize) -> (u8, u32, Vec<u8>) {
            let mut header = [0; 16];
            self.socket.read_exact(&mut header).unwrap();
            assert_eq!(header[..4], 0x6744_6698u32.to_be_bytes());
            let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
            let mut bytes = vec![0; if error == 0 { payload } else { 0 }];
            self.socket.read_exact(&mut bytes).unwrap();
            (header[8], error, bytes)
        }

        fn ends(mut self) {
            self.service.care.end();
            assert_eq!(self.socket.read(&mut [0]).unwrap(), 0, "our end closes");
            for thread in self.threads.drain(..) {
                thread.join().unwrap();
            }
        }
    }

    /// A store that keeps what it is asked for, to be answered by the test.
    struct Slow {
        info: Info,
        requests: Mutex<Vec<backend::Request>>,
    }

    impl Slow {
        fn new(size: u64) -> Arc<Slow> {
            Arc::new(Slow { info: Info { local: false, ..Info::local("slow:", size) }, requests: Mutex::default() })
        }

        fn next(&self) -> backend::Request {
            loop {
                let mut requests = self.requests.lock().unwrap();
                if !requests.is_empty() {
                    return requests.remove(0);
                }
                drop(requests);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Backend for Slow {
        fn info(&self) -> &Info {
            &self.info
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            unreachable!("only submitted to")
        }
        fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
            unreachable!("only submitted to")
        }
        fn sync(&self) -> Result<()> {
            unreachable!("only submitted to")
        }
        fn submit(self: Arc<Self>, request: backend::Request) {
            self.requests.lock().unwrap().push(request);
        }
    }

    #[test]
    fn requests_that_come_in_pieces_or_all_at_once_are_answered_each() {
        let mut kernel = Kernel::of(Arc::new(Memory::new(1 << 20).unwrap()), Duration::ZERO);
        let mut bytes = request(0, WRITE, [1; 8], 4096, 4096).to_vec();
        bytes.extend([7; 4096]);
        bytes.extend(request(0, READ, [2; 8], 4096, 4096));
        bytes.extend(request(0, WRITE_ZEROES, [3; 8], 4096, 100));
        for pieces in [1, 7, 28, 4124, bytes.len()] {
            for piece in bytes.chunks(pieces) {
                kernel.socket.write_all(piece).unwrap();
            }
            let mut replies = Vec::new();
            for _ in 0..3 {
                let (number, error, _) = kernel.reply(0);
                if number == 2 {
                    let mut read = [0; 4096];
                    kernel.socket.read_exact(&mut read).unwrap();
                    assert_eq!(read, [7; 4096]);
                }
                replies.push((number, error));
            }
            replies.sort();
            assert_eq!(replies, [(1, 0), (2, 0), (3, 0)]);
            kernel.send(0, READ, 4, 4096, 4096);
            let (_, _, read) = kernel.reply(4096);
            assert_eq!((&read[..100], &read[100..]), (&[0; 100][..], &[7; 3996][..]));
        }
        kernel.send(0, DISCONNECT, 5, 0, 0);
        kernel.ends();
    }

    #[test]
    fn a_reply_of_zeroes_and_the_end_of_the_region_arrive_as_zeros() {
        let slow = Slow::new(100_000);
        let mut kernel = Kernel::of(slow.clone(), Duration::ZERO);
        kernel.send(0, READ, 1, 0, 102_400);
        let asked = slow.next();
        assert!(matches!(&asked.operation, Operation::Read { offset: 0, buffer } if buffer.len() == 100_000));
        asked.completion.complete(Ok(Reply::Zeroes));
        assert_eq!(kernel.reply(102_400), (1, 0, vec![0; 102_400]));

        kernel.send(0, READ, 2, 98_304, 4096);
        let asked = slow.next();
        let Operation::Read { mut buffer, .. } = asked.operation else { panic!("no read") };
        buffer.fill(9);
        assert_eq!(buffer.len(), 1696);
        asked.completion.complete(Ok(Reply::Data(buffer)));
        let (_, _, bytes) = kernel.reply(4096);
        assert_eq!((&bytes[..1696], &bytes[1696..]), (&[9; 1696][..], &[0; 2400][..]));
        kernel.socket.shutdown(std::net::Shutdown::Write).unwrap();
        kernel.ends();
    }

    #[test]
    fn a_durable_write_is_answered_after_its_sync_and_later_requests_before_it() {
        let slow = Slow::new(1 << 20);
        let mut kernel = Kernel::of(slow.clone(), Duration::ZERO);
        kernel.send(FUA, WRITE, 1, 0, 4096);
        kernel.socket.write_all(&[1; 4096]).unwrap();
        kernel.send(FUA, TRIM, 2, 8192, 4096);
        let write = slow.next();
        let trim = slow.next();
        assert!(matches!(&write.operation, Operation::Write { offset: 0, data } if data[..] == [1; 4096]));
        assert!(matches!(trim.operation, Operation::Zero { offset: 8192, length: 4096 }));
        write.completion.complete(Ok(Reply::Done));
        let sync = slow.next();
        assert!(matches!(sync.operation, Operation::Sync));
        kernel.send(0, FLUSH, 3, 0, 0);
        slow.next().completion.complete(Ok(Reply::Done));
        assert_eq!(kernel.reply(0), (3, 0, vec![]));
        sync.completion.complete(Ok(Reply::Done));
        assert_eq!(kernel.reply(0), (1, 0, vec![]));
        trim.completion.complete(Ok(Reply::Done));
        slow.next().completion.complete(Err(Error::new(Code::Io, "no")));
        assert_eq!(kernel.reply(0), (2, libc::EIO as u32, vec![]));
        kernel.send(0, DISCONNECT, 5, 0, 0);
        kernel.ends();
    }

    #[test]
    fn what_is_not_answered_in_time_fails_once_and_a_late_answer_is_dropped() {
        let slow = Slow::new(1 << 20);
        let mut kernel = Kernel::of(slow.clone(), Duration::from_millis(50));
        kernel.send(0, READ, 1, 0, 4096);
        let late = slow.next();
        assert_eq!(kernel.reply(0), (1, libc::EIO as u32, vec![]));
        assert_eq!(kernel.service.care.latest_failure().unwrap().code(), Code::Timeout);
        late.completion.complete(Ok(Reply::Zeroes));
        kernel.send(0, FLUSH, 2, 0, 0);
        slow.next().completion.complete(Ok(Reply::Done));
        assert_eq!(kernel.reply(0), (2, 0, vec![]));
        // One that is dropped is answered as well.
        kernel.send(0, FLUSH, 3, 0, 0);
        drop(slow.next());
        assert_eq!(kernel.reply(0), (3, libc::EIO as u32, vec![]));
        kernel.send(0, DISCONNECT, 5, 0, 0);
        kernel.ends();
    }

    #[test]
    fn requests_outside_the_device_or_of_unknown_kind_are_refused_and_the_next_one_served() {
        let mut kernel = Kernel::of(Arc::new(Memory::new(10_000).unwrap()), Duration::ZERO);
        let invalid = libc::EINVAL as u32;
        for (command, offset, length) in
            [(READ, 8192, 8192), (READ, u64::MAX, 1), (READ, 0, u32::MAX), (TRIM, 12_288, 1), (99, 0, 0)]
        {
            kernel.send(0, command, 1, offset, length);
            assert_eq!(kernel.reply(0), (1, invalid, vec![]), "{command} {offset} {length}");
        }
        kernel.send(0, WRITE, 2, 12_288, 4096);
        kernel.socket.write_all(&[1; 4096]).unwrap();
        assert_eq!(kernel.reply(0), (2, invalid, vec![]));
        kernel.send(0, READ, 3, 8192, 4096);
        assert_eq!(kernel.reply(4096), (3, 0, vec![0; 4096]));
        kernel.send(0, DISCONNECT, 5, 0, 0);
        kernel.ends();
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        for bytes in [vec![0; REQUEST_SIZE], request(0, WRITE, [0; 8], 0, u32::MAX).to_vec()] {
            let mut kernel = Kernel::of(Arc::new(Memory::new(4096).unwrap()), Duration::ZERO);
            kernel.socket.write_all(&bytes).unwrap();
            kernel.ends();
        }
    }
}
