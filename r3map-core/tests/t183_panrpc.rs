//! 183: the Go library's panrpc, both ways.

#![cfg(feature = "panrpc")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use r3map_core::{Code, Protocol};

mod backends;
mod rpc;

use rpc::{ODD, Ours, memory, open};

const PROTOCOL: Protocol = Protocol::Panrpc;

#[test]
fn what_is_written_over_panrpc_is_kept() {
    let ours = Ours::new(PROTOCOL, memory(ODD));
    rpc::keeps_what_is_written(&ours.tcp);
    rpc::keeps_what_is_written(&format!("{}&chunk=4KiB&max_message=64KiB", ours.unix));
    rpc::keeps_what_is_written(&Ours::new(PROTOCOL, open(&ours.tcp).unwrap()).tcp);
}

#[test]
fn thousands_of_requests_are_under_way_over_panrpc() {
    rpc::answers_thousands_at_once(&Ours::new(PROTOCOL, memory(4 << 20)).tcp);
}

#[test]
fn an_export_over_panrpc_has_one_writer() {
    rpc::has_one_writer(PROTOCOL);
}

#[test]
fn a_server_over_panrpc_that_comes_back_is_used_again() {
    rpc::comes_back(PROTOCOL);
}

#[test]
fn what_cannot_be_is_refused_over_panrpc() {
    rpc::refuses_what_cannot_be(PROTOCOL);
}

#[test]
fn the_lines_of_the_go_library_are_answered_with_its_own() {
    let store = memory(1 << 20);
    store.write_at(b"twelve bytes", 65536).unwrap();
    let ours = Ours::new(PROTOCOL, store);
    let mut peer = TcpStream::connect(ours.address()).unwrap();
    let mut answers = BufReader::new(peer.try_clone().unwrap());
    let mut ask = |line: &str| {
        writeln!(peer, "{line}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        serde_json::from_str::<serde_json::Value>(&answer).unwrap()
    };
    let answer = ask(r#"{"request":{"call":"ID","function":"ReadAt","args":[12,65536]},"response":null}"#);
    let value = serde_json::json!({"N": 12, "P": "dHdlbHZlIGJ5dGVz"});
    let expected = serde_json::json!({"request": null, "response": {"call": "ID", "value": value, "err": ""}});
    assert_eq!(answer, expected);
    let answer = ask(r#"{"request":{"call":"ID","function":"WriteAt","args":["AAEC",7]},"response":null}"#);
    assert_eq!(answer["response"]["value"], 3);
    assert_eq!(ask(r#"{"request":{"call":"a","function":"Size","args":[]}}"#)["response"]["value"], 1 << 20);
    assert_eq!(ask(r#"{"request":{"call":"a","function":"Sync","args":[]}}"#)["response"]["err"], "");
    for wrong in [
        r#"ReadAt","args":[12,1048570]"#,
        r#"ReadAt","args":[-1,0]"#,
        r#"ReadAt","args":[99999999999,0]"#,
        r#"Open","args":[]"#,
    ] {
        let answer = ask(&format!(r#"{{"request":{{"call":"a","function":"{wrong}}}}}"#));
        assert_ne!(answer["response"]["err"], "", "{wrong}");
    }
    // Nonsense ends the connection.
    for wrong in ["{}", "nonsense", r#"{"request":{"call":"a","function":"ReadAt","args":["x",0]}}"#] {
        let mut peer = TcpStream::connect(ours.address()).unwrap();
        writeln!(peer, "{wrong}").unwrap();
        assert_eq!(peer.read(&mut [0; 8]).unwrap_or(0), 0, "{wrong}");
    }
}

/// A server that answers the first read, by which a client tries it out, and the next as it is told.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("panrpc://{}?size=65548", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut asked = BufReader::new(peer.try_clone().unwrap()).lines();
        let mut call = || {
            // What it says of our own call may come in between.
            let lines = asked.by_ref().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
            let asked = lines.into_iter().find(|line| line["request"].is_object()).unwrap();
            assert_eq!(asked["request"]["function"], "ReadAt");
            asked["request"]["call"].clone()
        };
        writeln!(peer, r#"{{"request":null,"response":{{"call":{},"value":{{"N":1,"P":"eA=="}},"err":""}}}}"#, call())
            .unwrap();
        // Servers may call, too; nothing comes of it.
        writeln!(peer, r#"{{"request":{{"call":"mine","function":"ReadAt","args":[1,1]}},"response":null}}"#).unwrap();
        writeln!(peer, r#"{{"request":null,"response":{{"call":{},{answer}}}}}"#, call()).unwrap();
        // Until the client is gone: closed over something unread, a socket takes back what it sent.
        let _ = std::io::copy(&mut peer, &mut std::io::sink());
    });
    url
}

#[test]
fn what_a_server_answers_is_looked_at_closely() {
    let read = |answer| {
        let mut bytes = [0; 12];
        open(&answering(answer)).unwrap().read_at(&mut bytes, 65536).map(|()| bytes)
    };
    assert_eq!(read(r#""value":{"N":12,"P":"dHdlbHZlIGJ5dGVz"},"err":"""#).unwrap(), *b"twelve bytes");
    let error = read(r#""value":null,"err":"EOF""#).unwrap_err();
    assert_eq!((error.code(), error.message().contains("the server said: EOF")), (Code::Io, true));
    for (answer, code) in [
        (r#""value":{"N":3,"P":"dHdl"},"err":"""#, Code::Io),
        (r#""value":{"N":13,"P":"dHdlbHZlIGJ5dGVzIQ=="},"err":"""#, Code::Corrupt),
        (r#""value":{"N":-1,"P":""},"err":"""#, Code::Corrupt),
        (r#""value":{"N":12,"P":"%%%%"},"err":"""#, Code::Corrupt),
        (r#""value":7,"err":"""#, Code::Corrupt),
    ] {
        assert_eq!(read(answer).unwrap_err().code(), code, "{answer}");
    }
}
