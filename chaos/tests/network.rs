//! The network does what it is told, and no more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use r3map_chaos::{Conditions, Direction, Fault, Network};

/// A server that says everything back.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
        }
    });
    address
}

fn connect(network: &Network) -> TcpStream {
    let stream = TcpStream::connect(network.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn answer(mut stream: &TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).unwrap();
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).unwrap();
    heard
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn bytes_pass_unchanged_and_in_order_by_tcp_and_by_unix_sockets() {
    let conditions = Conditions { jitter: Duration::from_millis(3), ..Conditions::default() };
    let network = Network::to(&echo(), conditions.clone()).unwrap();
    let mut stream = connect(&network);
    let words = pattern(3 << 20);
    let sent = words.clone();
    let writer = thread::spawn({
        let mut stream = stream.try_clone().unwrap();
        move || stream.write_all(&sent).unwrap()
    });
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).unwrap();
    writer.join().unwrap();
    assert!(heard == words);
    assert_eq!(network.passed(Direction::Up), words.len() as u64);

    let path = std::env::temp_dir().join(format!("chaos-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let network = Network::to(&format!("unix:{}", path.display()), conditions).unwrap();
    let mut client = UnixStream::connect(network.address().strip_prefix("unix:").unwrap()).unwrap();
    client.write_all(b"words").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"words");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_round_trip_takes_no_less_than_it_should_and_a_rate_holds_for_all_connections_together() {
    let network = Network::to(&echo(), Conditions::round_trip(Duration::from_millis(40))).unwrap();
    let stream = connect(&network);
    answer(&stream, b"once");
    let begun = Instant::now();
    answer(&stream, b"again");
    assert!(begun.elapsed() >= Duration::from_millis(40));

    let network = Network::to(&echo(), Conditions::default().with_rate(10 << 20)).unwrap();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let stream = connect(&network);
                (0..8).for_each(|_| assert_eq!(answer(&stream, &pattern(64 << 10)).len(), 64 << 10));
            });
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(90), "1 MiB at 10 MiB/s in {:?}", begun.elapsed());
}

#[test]
fn a_window_bounds_what_is_under_way() {
    let conditions = Conditions { window: Some(64 << 10), ..Conditions::round_trip(Duration::from_millis(20)) };
    let network = Network::to(&echo(), conditions).unwrap();
    let stream = connect(&network);
    let begun = Instant::now();
    answer(&stream, &pattern(256 << 10));
    // Four windows, a round trip each, but for the last.
    assert!(begun.elapsed() >= Duration::from_millis(60));
}

#[test]
fn what_was_planned_happens_at_its_byte() {
    let network = Network::to(&echo(), Conditions::default()).unwrap();
    network.plan(Direction::Up, 3, Fault::Corrupt);
    let stream = connect(&network);
    assert_eq!(answer(&stream, b"012345"), [b'0', b'1', b'2', b'3' ^ 0x10, b'4', b'5']);
    for fault in [Fault::Cut, Fault::Reset] {
        network.plan(Direction::Down, 4, fault);
        let mut stream = connect(&network);
        stream.write_all(b"012345").unwrap();
        let mut heard = Vec::new();
        let ended = stream.read_to_end(&mut heard);
        assert!(heard.is_empty() && fault == Fault::Reset || heard == b"0123", "{heard:?} {ended:?}");
        assert_eq!(ended.is_err(), fault == Fault::Reset, "{ended:?}");
        assert_eq!(network.planned(), 0);
    }
    // And a new connection is whole.
    assert_eq!(answer(&connect(&network), b"whole"), b"whole");
}

#[test]
fn one_that_stalls_passes_nothing_until_it_is_let_go_and_one_that_swallows_loses_it() {
    let network = Network::to(&echo(), Conditions::default()).unwrap();
    let mut stream = connect(&network);
    answer(&stream, b"before");
    network.stall(true);
    stream.write_all(b"later").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(stream.read(&mut [0; 8]).is_err());
    network.stall(false);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"later");
    network.swallow(true);
    stream.write_all(b"lost").unwrap();
    while network.passed(Direction::Up) < 15 {
        thread::sleep(Duration::from_millis(1));
    }
    network.swallow(false);
    assert_eq!(answer(&stream, b"found"), b"found");
}

#[test]
fn a_doubled_connection_reaches_the_target_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let network = Network::to(&listener.local_addr().unwrap().to_string(), Conditions::default()).unwrap();
    network.double(true);
    let mut stream = connect(&network);
    stream.write_all(b"twice").unwrap();
    for _ in 0..2 {
        let mut heard = [0; 5];
        listener.accept().unwrap().0.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"twice");
    }
}
