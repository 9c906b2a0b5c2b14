//! A TCP proxy between client and server that can be told to cut, stall, swallow, or flip a bit.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Passes bytes both ways until told otherwise.
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<String>,
    pairs: Mutex<Vec<Pair>>,
    /// New connections pass nothing.
    stalls: AtomicBool,
    /// Bytes go in and none come out.
    swallows: AtomicBool,
    /// How many of the next pieces get a bit flipped.
    flips: AtomicUsize,
    ended: AtomicBool,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// It passes nothing and does not even read.
    stalls: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy in front of `target`, a `host:port`.
    pub fn to(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_owned()),
            pairs: Mutex::default(),
            stalls: AtomicBool::new(false),
            swallows: AtomicBool::new(false),
            flips: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        thread::spawn({
            let shared = shared.clone();
            move || {
                for client in listener.incoming().flatten() {
                    if shared.ended.load(Ordering::SeqCst) {
                        return;
                    }
                    shared.connect(client);
                }
            }
        });
        Proxy { address, shared }
    }

    /// The URL of an export behind the proxy.
    pub fn url(&self, name: &str) -> String {
        format!("r3map://{}/{name}", self.address)
    }

    /// Cuts every connection there is; new ones are passed on.
    pub fn cut(&self) {
        for Pair { client, server, .. } in self.shared.pairs.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// From now on, or no longer, takes bytes and passes none on.
    pub fn swallow(&self, swallows: bool) {
        self.shared.swallows.store(swallows, Ordering::SeqCst);
    }

    /// From now on, or no longer, reads nothing from any connection.
    pub fn stall(&self, stalls: bool) {
        self.shared.stalls.store(stalls, Ordering::SeqCst);
        let pairs = self.shared.pairs.lock().unwrap();
        pairs.iter().for_each(|pair| pair.stalls.store(stalls, Ordering::SeqCst));
    }

    /// Stalls the newest connection alone.
    pub fn stall_newest(&self) {
        self.shared.pairs.lock().unwrap().last().unwrap().stalls.store(true, Ordering::SeqCst);
    }

    /// Flips a bit in each of the next pieces that pass.
    pub fn flip(&self, pieces: usize) {
        self.shared.flips.store(pieces, Ordering::SeqCst);
    }

    /// Whether all the bits were flipped.
    pub fn has_flipped(&self) -> bool {
        self.shared.flips.load(Ordering::SeqCst) == 0
    }

    /// Cuts, and leads new connections to another `host:port`.
    pub fn lead_to(&self, target: &str) {
        *self.shared.target.lock().unwrap() = target.to_owned();
        self.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: TcpStream) {
        let target = self.target.lock().unwrap().clone();
        let Ok(server) = TcpStream::connect(target) else {
            let _ = client.shutdown(Shutdown::Both);
            return;
        };
        let copy = |stream: &TcpStream| stream.try_clone().unwrap();
        let stalls = Arc::new(AtomicBool::new(self.stalls.load(Ordering::SeqCst)));
        let pair = Pair { client: copy(&client), server: copy(&server), stalls: stalls.clone() };
        self.pairs.lock().unwrap().push(pair);
        for (from, to) in [(copy(&client), copy(&server)), (server, client)] {
            let (shared, stalls) = (self.clone(), stalls.clone());
            thread::spawn(move || shared.pass(from, to, &stalls));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, stalls: &AtomicBool) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count) = from.read(&mut bytes) {
            if count == 0 {
                break;
            }
            while stalls.load(Ordering::SeqCst) && !self.ended.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            let left = |flips: usize| flips.checked_sub(1);
            if self.flips.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
                bytes[count / 2] ^= 0x10;
            }
            if !self.swallows.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
