//! What takes bytes from outside, each as one function of bytes: for the fuzzers in `fuzz/`, and for the test that runs
//! them over their corpus. Not part of the public interface.
//!
//! A function panics where something is wrong: what was read is not what it says when it is written again, a secret is
//! shown, a peer is left waiting. Where a checksum would stop a fuzzer, the first byte says whether to put it right.

use crate::backend::dir::chunks::offset_of_name;
use crate::backend::dir::record::Record as Shape;
use crate::backend::tape::index::Snapshot;
use crate::backend::tape::record::{HEAD, Head, Label};
use crate::migration::record::Record;
use crate::migration::{Message, Runs};
use crate::mount::cache::journal::Journal;
use crate::mount::cache::{Header as CacheHeader, in_memory};
use crate::mount::puller::trace;
use crate::page::PAGE;
use crate::url::{Location, SCHEMES, parse_size, percent_encode};
#[cfg(feature = "compression")]
use crate::wire::compress::{Packing, unpack};
use crate::wire::greeting::decode_error;
use crate::wire::nbd::handshake::{Ask, Queries};
use crate::wire::nbd::{Chunk, Request};
use crate::wire::{HEADER_LENGTH, Header, Hello, Kind, MAGIC, Welcome};

mod talks;

/// Takes bytes from outside.
pub type Run = fn(&[u8]);

/// Every function, by the name of its fuzzer and of the folder of its corpus.
pub const TARGETS: &[(&str, Run)] = &[
    ("native_header", native_header),
    ("native_greeting", native_greeting),
    ("native_migration", native_migration),
    ("native_server", talks::native_server),
    ("native_seeder", talks::native_seeder),
    ("native_client", talks::native_client),
    ("nbd_messages", nbd_messages),
    ("nbd_server", talks::nbd_server),
    ("nbd_client", talks::nbd_client),
    #[cfg(feature = "grpc")]
    ("grpc_server", talks::grpc_server),
    #[cfg(feature = "grpc")]
    ("grpc_client", talks::grpc_client),
    #[cfg(feature = "frpc")]
    ("frpc_messages", frpc_messages),
    #[cfg(feature = "frpc")]
    ("frpc_server", talks::frpc_server),
    #[cfg(feature = "frpc")]
    ("frpc_client", talks::frpc_client),
    #[cfg(feature = "panrpc")]
    ("panrpc_lines", panrpc_lines),
    #[cfg(feature = "panrpc")]
    ("panrpc_server", talks::panrpc_server),
    #[cfg(feature = "panrpc")]
    ("panrpc_client", talks::panrpc_client),
    ("records", records),
    ("cache", cache),
    ("trace", trace_file),
    ("directory", directory),
    ("tape", tape),
    #[cfg(feature = "compression")]
    ("packed", packed),
    ("url", url),
    #[cfg(feature = "chunks")]
    ("lease", lease),
    #[cfg(feature = "http")]
    ("web", web),
    #[cfg(feature = "s3")]
    ("s3_profile", s3_profile),
    #[cfg(feature = "tls")]
    ("tls_files", tls_files),
    #[cfg(feature = "tls")]
    ("tls_server", talks::tls_server),
    #[cfg(feature = "tls")]
    ("tls_client", talks::tls_client),
];

/// The function of that name.
pub fn target(name: &str) -> Option<Run> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// The first byte as a choice, and the rest.
fn choose(bytes: &[u8]) -> Option<(u8, &[u8])> {
    bytes.split_first().map(|(first, rest)| (*first, rest))
}

/// Puts the checksum of what is before it at `at`, if there is room.
fn seal(bytes: &mut [u8], at: usize) {
    if bytes.len() >= at + 4 {
        let crc = crc32c::crc32c(&bytes[..at]).to_le_bytes();
        bytes[at..at + 4].copy_from_slice(&crc);
    }
}

/// The head of a frame with its magic and its checksum right, whatever else it says.
fn sealed_head(head: &[u8; HEADER_LENGTH]) -> [u8; HEADER_LENGTH] {
    let mut head = *head;
    head[..4].copy_from_slice(&MAGIC);
    seal(&mut head, HEADER_LENGTH - 4);
    head
}

/// The bytes as frames whose checksums are right and whose payloads are here.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LENGTH>() {
        let (mut head, [.., a, b, c, d, _, _, _, _, _, _, _, _, _, _, _, _]) = (*head, *head);
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        head[32..36].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        head[36..40].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        frames.extend(sealed_head(&head));
        frames.extend(payload);
        bytes = rest;
    }
    frames.extend(bytes);
    frames
}

fn native_header(bytes: &[u8]) {
    let Some(head) = bytes.first_chunk::<HEADER_LENGTH>() else { return };
    for head in [*head, sealed_head(head)] {
        for decode in [Header::decode, Header::decode_migrating] {
            if let Ok(header) = decode(&head) {
                assert_eq!(decode(&header.encode()).unwrap(), header);
            }
        }
    }
}

fn native_greeting(bytes: &[u8]) {
    match choose(bytes) {
        Some((0, rest)) => {
            if let Ok(hello) = Hello::decode(rest) {
                assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
            }
        }
        Some((1, rest)) => {
            if let Ok(welcome) = Welcome::decode(rest) {
                assert_eq!(Welcome::decode(&welcome.encode()).unwrap(), welcome);
            }
        }
        Some((_, rest)) => {
            let error = decode_error(&Header::new(Kind::Error, 1), rest);
            assert!(!error.message().chars().any(char::is_control));
        }
        None => {}
    }
}

fn native_migration(bytes: &[u8]) {
    let Some(([kind, a, b], rest)) = bytes.split_first_chunk::<3>() else { return };
    let pages = u64::from(u16::from_le_bytes([*a, *b]));
    if let Ok(runs) = Runs::decode(rest, pages) {
        assert_eq!(runs.encode(), rest);
        assert!(runs.iter().all(|run| run.start < run.end && run.end <= pages));
    }
    // The messages of a migration are the last kinds there are; one that is none follows.
    let messages = Kind::ALL.into_iter().skip_while(|kind| *kind != Kind::Track).chain([Kind::Read]);
    let messages: Vec<Kind> = messages.collect();
    let kind = messages[usize::from(*kind) % messages.len()];
    let again = |message: &Message| Message::decode(kind, &message.encode().1, pages).unwrap();
    if let Ok(message) = Message::decode(kind, rest, pages) {
        // Words that were too long are cut, once.
        let message = again(&message);
        assert_eq!(again(&message), message);
    }
}

fn nbd_messages(bytes: &[u8]) {
    if let Some(request) = bytes.first_chunk().and_then(Request::parse) {
        assert_eq!(Request::parse(&request.encode()).unwrap(), request);
    }
    if let Some(chunk) = bytes.first_chunk().and_then(Chunk::parse) {
        assert_eq!(Chunk::parse(&chunk.encode()).unwrap(), chunk);
    }
    if let Ok(ask) = Ask::decode(bytes) {
        assert_eq!(ask.encode(), bytes);
    }
    if let Ok(queries) = Queries::decode(bytes) {
        assert_eq!(queries.encode(), bytes);
    }
}

#[cfg(feature = "frpc")]
fn frpc_messages(bytes: &[u8]) {
    use crate::wire::frpc::{Fields, Head};
    if let Some(head) = bytes.first_chunk() {
        assert_eq!(Head::decode(head).encode(), *head);
    }
    let Some((order, message)) = choose(bytes) else { return };
    let Ok(Ok(mut fields)) = Fields::open(message) else { return };
    for place in 0..8 {
        let taken = match (order >> place) & 1 {
            0 => fields.int32().map(drop),
            _ if place % 2 == 0 => fields.int64().map(drop),
            _ => fields.bytes().map(|found| assert!(found.len() < message.len())),
        };
        if taken.is_err() {
            return;
        }
    }
}

#[cfg(feature = "panrpc")]
fn panrpc_lines(bytes: &[u8]) {
    use crate::wire::panrpc::{Line, bytes_of, number_of};
    let Ok(line) = Line::decode(bytes) else { return };
    match &line {
        Line::Request { args, .. } => {
            args.iter().for_each(|value| drop((bytes_of(Some(value)), number_of(Some(value)))));
        }
        Line::Response { outcome, .. } => {
            let value = outcome.as_ref().ok();
            drop((bytes_of(value.and_then(|value| value.get("P"))), number_of(value)));
        }
    }
    let text = line.encode();
    assert_eq!(text.iter().position(|byte| *byte == b'\n'), Some(text.len() - 1));
    // A number that is not whole may change its last digit, once.
    let again = Line::decode(&text).unwrap().encode();
    assert_eq!(Line::decode(&again).is_ok(), !again.is_empty());
}

fn records(bytes: &[u8]) {
    let Some((choice, rest)) = choose(bytes) else { return };
    let mut bytes = rest.to_vec();
    if choice & 1 == 1 {
        seal_record(&mut bytes);
    }
    if let Ok(record) = Record::decode(&bytes) {
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }
    let mut bytes = rest.to_vec();
    if choice & 1 == 1 {
        seal(&mut bytes, rest.len().saturating_sub(4));
    }
    let _ = crate::version::decode(&bytes);
}

/// Puts the checksums of a record right: of its pages, of what is handed over, of its head.
fn seal_record(bytes: &mut [u8]) {
    const HEAD: usize = 100;
    let Some((head, rest)) = bytes.split_at_mut_checked(HEAD) else { return };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (pages, rest) = rest.split_at(number(76).min(rest.len()));
    let handed = &rest[..number(84).min(rest.len())];
    let crcs = [pages, handed].map(|part| crc32c::crc32c(part).to_le_bytes());
    head[80..84].copy_from_slice(&crcs[0]);
    head[88..92].copy_from_slice(&crcs[1]);
    seal(head, HEAD - 4);
}

/// The head of a cache, or its tables as another boot finds them.
fn cache(bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let Some((choice, rest)) = choose(bytes) else { return };
    if choice < 2 {
        let mut head = rest.to_vec();
        if choice == 1 {
            seal(&mut head, 116);
        }
        if let Ok(header) = CacheHeader::decode(&head) {
            assert_eq!(CacheHeader::decode(&header.encode()).unwrap(), header);
        }
        return;
    }
    let size = u64::from(choice) * PAGE - 7;
    let file = in_memory(0).unwrap();
    Journal::make(&file, size).unwrap();
    let room = (file.metadata().unwrap().len() - PAGE) as usize;
    // Four tables of a page each, of which the first words mean something, and then checksums.
    for (index, part) in rest.chunks(16).enumerate() {
        let at = index * PAGE as usize % room;
        file.write_all_at(&part[..part.len().min(room - at)], PAGE + at as u64).unwrap();
    }
    let journal = Journal::open(file, size).unwrap();
    let whole = Runs::all(size.div_ceil(PAGE));
    for boot in 0..2 {
        if boot == 1 {
            journal.in_another_boot().unwrap();
        }
        let (clean, dirty) = journal.pages();
        assert!(clean.without(&whole).is_empty() && dirty.without(&whole).is_empty());
        assert_eq!(clean.union(&dirty).pages(), clean.pages() + dirty.pages());
        assert!(journal.dirty_bytes() <= size);
    }
    journal.recall(0..1, &in_memory(size).unwrap());
}

fn trace_file(bytes: &[u8]) {
    let Some(([choice, a, b], rest)) = bytes.split_first_chunk::<3>() else { return };
    let size = u64::from(u16::from_le_bytes([*a, *b])) * 100;
    let mut bytes = rest.to_vec();
    if choice & 1 == 1 && bytes.len() >= 36 {
        bytes[16..24].copy_from_slice(&size.to_le_bytes());
        let body = crc32c::crc32c(&bytes[36..]).to_le_bytes();
        bytes[28..32].copy_from_slice(&body);
        seal(&mut bytes, 32);
    }
    if let Ok(runs) = trace::decode(&bytes, size) {
        assert!(runs.iter().all(|run| run.start < run.end && run.end <= size.div_ceil(PAGE)));
        assert_eq!(trace::encode(size, &runs), bytes);
    }
}

fn directory(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(shape) = Shape::parse(text, "x") {
        assert!(shape.size <= i64::MAX as u64 && shape.chunk > 0);
    }
    if let Some(offset) = offset_of_name(text) {
        assert_eq!(offset.to_string(), text);
    }
}

/// A label, the head of a record and its bytes, or an index.
fn tape(bytes: &[u8]) {
    const LABEL: Label = Label { id: [7; 16], size: 300_000, chunk: 65536, block: 512 };
    let Some((choice, rest)) = choose(bytes) else { return };
    let mut bytes = rest.to_vec();
    match choice % 3 {
        0 => {
            seal(&mut bytes, HEAD - 4);
            if let Ok(label) = Label::decode(&bytes[..bytes.len().min(HEAD)]) {
                assert!(label.stride() > HEAD && label.chunks() <= label.size);
                assert_eq!(Label::decode(&label.encode()).unwrap(), label);
            }
        }
        1 => {
            seal(&mut bytes, HEAD - 4);
            if let Ok(head) = Head::decode(&bytes[..bytes.len().min(HEAD)], &LABEL) {
                assert_eq!(Head::decode(&head.encode(&LABEL), &LABEL).unwrap(), head);
                let _ = head.payload(&bytes, &LABEL);
            }
        }
        _ => {
            let end = bytes.len().saturating_sub(4);
            seal(&mut bytes, end);
            if let Ok(snapshot) = Snapshot::decode(&bytes, LABEL.chunks(), LABEL.stride() as u64) {
                assert_eq!(snapshot.encode(), bytes);
            }
        }
    }
}

/// A payload that travels packed: how, how long it should be, and its bytes.
#[cfg(feature = "compression")]
fn packed(bytes: &[u8]) {
    let Some(([how, a, b], packed)) = bytes.split_first_chunk::<3>() else { return };
    let packing = Packing::ALL[usize::from(*how) % Packing::ALL.len()];
    let mut into = vec![0; usize::from(u16::from_le_bytes([*a, *b]))];
    // What came of it is refused for its checksum, which nobody knows; a second try has that right.
    let _ = unpack(packing, packed, &mut into, 0);
    let crc = crc32c::crc32c(&into);
    let mut again = vec![0; into.len()];
    if unpack(packing, packed, &mut again, crc).is_ok() {
        assert_eq!(again, into);
    }
}

fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(size) = parse_size(text) {
        assert!(size <= i64::MAX as u64);
    }
    check_shown(text);
    // What stands where a password does is never shown, whatever surrounds it.
    for scheme in SCHEMES {
        check_shown(&format!("{scheme}://me:{SECRET}{text}@host/0"));
        check_shown(&format!("{scheme}:{text}//me:{SECRET}@host/0"));
    }
    // Dots that are a whole part of a path mean something else.
    if !text.contains('.') {
        let named = Location::parse(&format!("r3map://host/{}", percent_encode(text))).unwrap();
        assert_eq!(named.name().unwrap(), text);
    }
}

/// A password.
const SECRET: &str = "pA55-w0rd";

/// Takes all that there is out of a URL, and looks whether any of it shows the password.
fn check_shown(text: &str) {
    let Ok(location) = Location::parse(text) else { return };
    let mut shown = format!("{location:?} {}", location.as_str());
    let mut tell = |error: crate::Error| shown.push_str(&error.to_string());
    let _ = (location.username(), location.password());
    let _ = location.host_and_port(1).map_err(&mut tell);
    let _ = location.name().map_err(&mut tell);
    if let Ok(path) = location.file_path().map_err(&mut tell) {
        assert!(path.is_absolute());
    }
    if let Ok(parameters) = location.parameters(&["size", "chunk", "name"]).map_err(&mut tell) {
        let _ = parameters.size("size").map_err(&mut tell);
        let _ = parameters.flag("chunk").map_err(&mut tell);
    }
    if location.raw().password().is_some_and(|password| password.contains(SECRET)) {
        let elsewhere = [location.raw().path(), location.raw().query().unwrap_or_default(), location.raw().username()];
        let is_elsewhere = elsewhere.iter().any(|part| part.contains(SECRET));
        assert!(is_elsewhere || !shown.contains(SECRET), "{shown:?}");
    }
}

#[cfg(feature = "chunks")]
fn lease(bytes: &[u8]) {
    if let Ok(record) = crate::backend::lease::record::Record::decode(bytes) {
        assert_eq!(record.encode().as_bytes(), bytes);
    }
}

#[cfg(feature = "http")]
fn web(bytes: &[u8]) {
    let found = std::str::from_utf8(bytes).ok().and_then(crate::backend::http::content_range);
    if let Some((place, size)) = found {
        assert!(place.is_none_or(|place| place.start < place.end && place.end <= size) && size <= i64::MAX as u64);
    }
}

#[cfg(feature = "s3")]
fn s3_profile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(found) = crate::backend::s3::profile::section(text, "default") {
        assert!(!found.key_id.contains('\n') && !found.secret_key.contains('\n'));
    }
}

#[cfg(feature = "tls")]
fn tls_files(bytes: &[u8]) {
    use std::path::Path;

    use crate::tls;
    const TOKEN: &[u8] = b"T0k3n-T0k3n-T0k3n";
    for file in [[bytes, b"\nme:", TOKEN].concat(), [b"me:", TOKEN, bytes].concat()] {
        if let Err(error) = tls::token::Tokens::default().add_lines(&file, Path::new("tokens")) {
            let token = String::from_utf8_lossy(TOKEN);
            assert!(bytes.windows(4).any(|part| TOKEN.starts_with(part)) || !error.message().contains(&*token));
        }
    }
    if let Ok(pin) = tls::client::parse_pin(&String::from_utf8_lossy(bytes)) {
        assert_eq!(bytes.len(), 2 * pin.len());
    }
    let _ = tls::private_key(bytes);
    for certificate in tls::certificates(bytes).into_iter().flatten().chain([bytes.to_vec().into()]) {
        let _ = tls::pin_of(&certificate);
    }
}
