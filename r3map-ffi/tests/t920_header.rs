//! The header and the list of exported symbols are committed, and these tests hold them against the code. With
//! `R3MAP_BLESS=1` they are written anew instead. What a change means for programs is for a person to say, in the changelog.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cbindgen::{Builder, Config, DocumentationStyle, Language, Layout, Style};

/// The sections of the header in the order in which it is read: each is a source, introduced by its own `//!`.
const SECTIONS: &[&str] = &[
    "version.rs",
    "error.rs",
    "cancel.rs",
    "backend.rs",
    "backend/functions.rs",
    "mount/options.rs",
    "stats.rs",
    "mount.rs",
    "server.rs",
    "seeder/options.rs",
    "seeder.rs",
    "group.rs",
    "leecher.rs",
    "log.rs",
];

const WIDTH: usize = 110;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What a source says of itself: the lines after `//!`.
fn introduction(source: &str) -> Vec<String> {
    let text = fs::read_to_string(sources().join(source)).unwrap();
    let lines = text.lines().take_while(|line| line.starts_with("//!"));
    lines.map(|line| line[3..].strip_prefix(' ').unwrap_or(&line[3..]).to_owned()).collect()
}

/// A comment of whole lines.
fn comment(lines: &[String]) -> String {
    let mut text = String::from("/*\n");
    for line in lines {
        text.push_str(format!(" * {line}").trim_end());
        text.push('\n');
    }
    text + " */\n"
}

/// The declarations of a source.
fn declarations(source: &str) -> String {
    let mut config = Config {
        language: Language::C,
        no_includes: true,
        usize_is_size_t: true,
        documentation_style: DocumentationStyle::C99,
        line_length: WIDTH,
        style: Style::Type,
        ..Config::default()
    };
    config.function.args = Layout::Auto;
    config.enumeration.prefix_with_name = false;
    // Enumerations travel as uint32_t, so that no function mentions them.
    config.export.include = [
        "r3map_code",
        "r3map_log_level",
        "r3map_mode",
        "r3map_pull",
        "r3map_view",
        "r3map_mount_event",
        "r3map_backend_flag",
        "r3map_seed_state",
        "r3map_leech_state",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut written = Vec::new();
    let builder = Builder::new().with_config(config).with_src(sources().join(source));
    builder.generate().expect("the sources parse").write(&mut written);
    String::from_utf8(written).unwrap().trim().to_owned()
}

fn header() -> String {
    let mut text = comment(&introduction("lib.rs"));
    text.push_str("\n#ifndef R3MAP_H\n#define R3MAP_H\n\n");
    text.push_str("#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n\n");
    text.push_str("#ifdef __cplusplus\nextern \"C\" {\n#endif\n");
    for source in SECTIONS {
        let lines = introduction(source);
        let title = format!("---- {} ", lines[0]);
        let mut lines = [vec![format!("{title:-<width$}", width = WIDTH - 3)], lines[1..].to_vec()].concat();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        write!(text, "\n{}\n{}\n", comment(&lines), declarations(source)).unwrap();
    }
    text.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
    text
}

/// Compares a committed file with what it should be, or writes it.
fn hold(path: &str, expected: &str) {
    let file = repository().join(path);
    if std::env::var_os("R3MAP_BLESS").is_some() {
        return fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    if found == expected {
        return;
    }
    let differing = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = differing.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
    panic!(
        "{path} is not what the code says, first in line {}:\n  committed: {:?}\n  code says: {:?}\n\
         If the change is meant: R3MAP_BLESS=1 cargo test -p r3map-ffi --test t920_header",
        line + 1,
        found.lines().nth(line),
        expected.lines().nth(line)
    );
}

/// What a header declares, without comments and line breaks, as one number (64-bit FNV-1a).
fn digest(header: &str) -> u64 {
    let code = header.split("/*").map(|part| part.split_once("*/").map_or(part, |(_, code)| code));
    let code: Vec<_> = code.flat_map(str::lines).map(|line| line.split("//").next().unwrap_or_default()).collect();
    code.join(" ")
        .split_whitespace()
        .flat_map(|word| word.bytes().chain([b' ']))
        .fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The part of the changelog's newest release under the heading "ABI".
fn abi_notes() -> String {
    let log = fs::read_to_string(repository().join("CHANGELOG.md")).unwrap();
    let newest = log.split("\n## ").nth(1).unwrap_or_default();
    newest.split("\n### ").find_map(|part| part.strip_prefix("ABI\n")).unwrap_or_default().to_owned()
}

/// The functions that a header declares.
fn declared(header: &str) -> BTreeSet<String> {
    let starts = header.match_indices("r3map_").filter_map(|(at, _)| {
        let name: String = header[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let line = &header[header[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        let declares = header[at + name.len()..].starts_with('(') && !line.starts_with([' ', '/', '*']);
        declares.then_some(name)
    });
    starts.collect()
}

/// The symbols that the shared library gives to programs.
fn exported() -> BTreeSet<String> {
    let build = Command::new(repository().join("scripts/libraries")).status().unwrap();
    assert!(build.success(), "the library does not build");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("debug/libr3map.so");
    let listed = Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(&library).output();
    let listed = listed.expect("nm, of the package binutils, lists the symbols of a library");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_committed_header_is_what_the_code_says() {
    hold("include/r3map.h", &header());
}

#[test]
fn whoever_changes_a_declaration_says_in_the_changelog_what_changed() {
    let digest = format!("{:016x}", digest(&header()));
    assert!(
        abi_notes().contains(&digest),
        "what r3map.h declares changed: add a line to \"### ABI\" of the newest release in CHANGELOG.md which says what, \
         and what it means for programs that are compiled already; it ends with ({digest})"
    );
}

#[test]
fn a_comment_is_no_declaration_and_a_type_is() {
    let header = "int f(int a);\n/* about g,\n * in two lines */\nint g(void); // more\n";
    assert_eq!(digest(header), digest("int f(int a);\nint\n    g(void);"));
    assert_ne!(digest(header), digest(&header.replace("int a", "long a")));
    assert_ne!(digest(header), digest(&header.replace("int g(void);", "")));
}

#[test]
fn the_library_exports_the_committed_symbols_and_the_header_declares_each_of_them() {
    let exported = exported();
    let lines = exported.iter().fold(String::new(), |text, name| text + name + "\n");
    hold("tests/abi/symbols.txt", &lines);
    assert_eq!(declared(&header()), exported);
}
