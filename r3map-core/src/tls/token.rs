//! Tokens: secrets by which a server knows its clients. It keeps only their hashes.

use std::path::Path;

use super::{read, sha256};
use crate::error::{Code, Error, Result};
use crate::options::Secret;
use crate::wire::{hexadecimal, socket};

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;
/// The longest token.
pub(super) const LONGEST: usize = 1024;

/// The tokens that a server knows, by the names of those who have them.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Vec<(String, [u8; 32])>);

impl Tokens {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a token.
    pub fn add(&mut self, name: &str, token: &str) -> Result<()> {
        let wrong = match token.len() {
            length if length < SHORTEST => format!("has fewer than {SHORTEST} bytes and could be guessed"),
            length if length > LONGEST => format!("has more than {LONGEST} bytes"),
            _ if self.0.iter().any(|(known, _)| known == name) => "is named twice".to_owned(),
            _ => {
                self.0.push((name.to_owned(), sha256(token.as_bytes())));
                return Ok(());
            }
        };
        Err(Error::new(Code::InvalidArgument, format!("the token of {name:?} {wrong}")))
    }

    /// Adds those of a file, whose lines are `name:token`.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        self.add_lines(&read("token_file", path)?, path)
    }

    /// Adds those of the bytes of such a file.
    pub fn add_lines(&mut self, bytes: &[u8], path: &Path) -> Result<()> {
        let wrong = |line: usize, why: &str| {
            Error::new(Code::InvalidArgument, format!("token_file: {}, line {line}: {why}", path.display()))
        };
        let text = std::str::from_utf8(bytes).map_err(|_| wrong(1, "no UTF-8"))?;
        for (at, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parts = line.split_once(':').filter(|(name, _)| !name.is_empty());
            let (name, token) = parts.ok_or_else(|| wrong(at + 1, "write NAME:TOKEN"))?;
            self.add(name, token).map_err(|error| wrong(at + 1, error.message()))?;
        }
        Ok(())
    }

    /// Whose token this is. It takes as long whether the token is known, and wherever it differs.
    pub fn owner(&self, token: &[u8]) -> Option<&str> {
        let hash = sha256(token);
        let mut found = None;
        for (name, known) in &self.0 {
            let differs = known.iter().zip(&hash).fold(0, |differs, (one, other)| differs | (one ^ other));
            if std::hint::black_box(differs) == 0 {
                found = Some(name.as_str());
            }
        }
        found
    }
}

/// A token that nobody has yet.
pub(super) fn fresh() -> Result<Secret> {
    Ok(Secret::from(hexadecimal(&socket::random()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_whole_and_by_its_name() {
        let mut tokens = Tokens::default();
        assert!(tokens.is_empty());
        tokens.add("one", "0123456789abcdef").unwrap();
        tokens.add("two", "0123456789abcdeg").unwrap();
        assert_eq!(tokens.owner(b"0123456789abcdeg"), Some("two"));
        for unknown in [&b""[..], b"0123456789abcde", b"0123456789abcdef0", b"0123456789abcdeF"] {
            assert_eq!(tokens.owner(unknown), None);
        }
        for (name, token) in [("three", "short"), ("one", "fedcba9876543210"), ("long", &"x".repeat(1025))] {
            let error = tokens.add(name, token).unwrap_err();
            assert!(!error.message().contains(token), "{error}");
        }
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"));
    }
}
