//! Locations: URLs of backends, sizes as people write them, and help for the ones mistyped.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::error::{Code, Error, Result};
use crate::options::Secret;

/// The schemes this build opens.
pub const SCHEMES: &[&str] = &[
    "memory",
    "file",
    "dir",
    "r3map",
    "r3map+unix",
    "nbd",
    "nbd+unix",
    #[cfg(feature = "grpc")]
    "grpc",
    #[cfg(feature = "grpc")]
    "grpc+unix",
    #[cfg(feature = "frpc")]
    "frpc",
    #[cfg(feature = "frpc")]
    "frpc+unix",
    #[cfg(feature = "panrpc")]
    "panrpc",
    #[cfg(feature = "panrpc")]
    "panrpc+unix",
    #[cfg(feature = "tls")]
    "r3maps",
    #[cfg(feature = "tls")]
    "nbds",
    #[cfg(feature = "tls")]
    "nbds+unix",
    #[cfg(feature = "redis")]
    "redis",
    #[cfg(feature = "redis")]
    "rediss",
    #[cfg(feature = "redis")]
    "redis+cluster",
    #[cfg(feature = "cassandra")]
    "cassandra",
    #[cfg(feature = "http")]
    "http",
    #[cfg(feature = "http")]
    "https",
    #[cfg(feature = "s3")]
    "s3",
];

/// The features of the package that a build without them lacks, and the schemes of each.
const FEATURES: &[(&str, &[&str])] = &[
    #[cfg(not(feature = "grpc"))]
    ("grpc", &["grpc", "grpc+unix"]),
    #[cfg(not(feature = "frpc"))]
    ("frpc", &["frpc", "frpc+unix"]),
    #[cfg(not(feature = "panrpc"))]
    ("panrpc", &["panrpc", "panrpc+unix"]),
    #[cfg(not(feature = "tls"))]
    ("tls", &["r3maps", "nbds", "nbds+unix"]),
    #[cfg(not(feature = "redis"))]
    ("redis", WITH_PASSWORD),
    #[cfg(not(feature = "cassandra"))]
    ("cassandra", &["cassandra"]),
    #[cfg(not(feature = "http"))]
    ("http", &["http", "https"]),
    #[cfg(not(feature = "s3"))]
    ("s3", &["s3"]),
];

/// The schemes whose URLs may hold a user and password.
const WITH_PASSWORD: &[&str] = &["redis", "rediss", "redis+cluster"];

/// A parsed URL of a backend.
#[derive(Clone)]
pub struct Location {
    url: Url,
    text: String,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.text).finish()
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidArgument, message)
}

impl Location {
    /// Parses a URL; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Location> {
        let shown = shown(text);
        let url = Url::parse(text).map_err(|error| match text.split_once(':') {
            None => invalid(format!("{shown:?} is not a URL: it has no scheme; one of {}", SCHEMES.join(" "))),
            Some(_) => invalid(format!("{shown:?} is not a URL: {error}")),
        })?;
        if !SCHEMES.contains(&url.scheme()) {
            return Err(unknown_scheme(url.scheme()));
        }
        if url.password().is_some() && !WITH_PASSWORD.contains(&url.scheme()) {
            return Err(invalid(format!(
                "a {} URL takes no password: secrets come from options or files",
                url.scheme()
            )));
        }
        if url.fragment().is_some() {
            return Err(invalid(format!("{shown:?}: a URL of a backend has no #fragment; write %23 for a #")));
        }
        Ok(Location { text: shown, url })
    }

    /// The scheme, such as `file`.
    pub fn scheme(&self) -> &str {
        self.url.scheme()
    }

    /// The URL as it was given, but for a password: it holds no secret, and may not open what it was given for.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL with all that it holds, which belongs in no message.
    pub fn raw(&self) -> &Url {
        &self.url
    }

    /// The user, if one is named.
    pub fn username(&self) -> Result<Option<String>> {
        let name = self.url.username();
        if name.is_empty() { Ok(None) } else { self.text_of(name, "user").map(Some) }
    }

    /// The password, if there is one. It belongs in no message.
    pub fn password(&self) -> Result<Option<Secret>> {
        let decoded = |password| self.text_of(password, "password").map(Secret::from);
        self.url.password().map(decoded).transpose()
    }

    fn text_of(&self, encoded: &str, what: &str) -> Result<String> {
        String::from_utf8(decode(encoded)).map_err(|_| invalid(format!("{}: the {what} is not UTF-8", self.text)))
    }

    /// The host and port, the port being `default` unless it was given.
    pub fn host_and_port(&self, default: u16) -> Result<(String, u16)> {
        match self.url.host_str() {
            Some(host) if !host.is_empty() => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok((host, self.url.port().unwrap_or(default)))
            }
            _ => Err(invalid(format!("{}: no host; write {}://HOST:PORT/NAME", self.text, self.scheme()))),
        }
    }

    /// The path with its percent signs decoded, for schemes whose path is a file's.
    pub fn file_path(&self) -> Result<PathBuf> {
        if self.url.host_str().is_some_and(|host| !host.is_empty()) {
            return Err(invalid(format!(
                "{}: {:?} stands where a host would; an absolute path needs three slashes",
                self.text,
                self.url.host_str().unwrap_or_default()
            )));
        }
        let path = decode(self.url.path());
        if !path.starts_with(b"/") || path == b"/" {
            return Err(invalid(format!("{}: no path; write {}:///PATH", self.text, self.scheme())));
        }
        if path.contains(&0) {
            return Err(invalid(format!("{:?}: a path holds no NUL byte", self.text)));
        }
        use std::os::unix::ffi::OsStringExt;
        Ok(PathBuf::from(std::ffi::OsString::from_vec(path)))
    }

    /// The path without its first slash, with its percent signs decoded, for schemes whose path is a name.
    pub fn name(&self) -> Result<String> {
        let path = self.url.path();
        self.text_of(path.strip_prefix('/').unwrap_or(path), "name")
    }

    /// The parameters after `?`, all of which must be in `known`.
    pub fn parameters(&self, known: &[&str]) -> Result<Parameters> {
        let parameters = self.any_parameters()?;
        match parameters.pairs.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(parameters),
            Some((key, _)) => {
                let nearest = nearest(key, known, "takes no parameters");
                Err(invalid(format!("{}: unknown parameter {key:?}{nearest}", self.text)))
            }
        }
    }

    /// The parameters after `?`, whether the scheme knows them or not.
    pub fn any_parameters(&self) -> Result<Parameters> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (key, value) in self.url.query_pairs() {
            if pairs.iter().any(|(earlier, _)| *earlier == key) {
                return Err(invalid(format!("{}: parameter {key:?} is given twice", self.text)));
            }
            pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(Parameters { text: self.text.clone(), pairs })
    }
}

/// The parameters of a URL.
pub struct Parameters {
    text: String,
    pairs: Vec<(String, String)>,
}

impl Parameters {
    /// The value of a parameter, if it was given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is a size.
    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        let parse = |value| parse_size(value).map_err(|error| error.context(format!("{}: {key}", self.text)));
        self.get(key).map(parse).transpose()
    }

    /// The value of a parameter that is `true` or, by default, `false`.
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(invalid(format!("{}: {key} is true or false, not {other:?}", self.text))),
        }
    }
}

/// A URL as it may be shown: what stands between a user's name and the host is left out, also where the URL is
/// mistyped; and the query of a web server's, which may hold a signature.
fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    if let ("http" | "https", Some((before, _))) = (scheme.to_ascii_lowercase().as_str(), rest.split_once('?')) {
        return shown(&format!("{scheme}://{before}"));
    }
    // A password with an unescaped / or ? is one all the same, where passwords are at home.
    let end = match WITH_PASSWORD.contains(&scheme.to_ascii_lowercase().as_str()) {
        true => rest.len(),
        false => rest.find(['/', '?', '#']).unwrap_or(rest.len()),
    };
    let Some(at) = rest[..end].rfind('@') else { return text.to_owned() };
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:…{}", &rest[at..]),
        None => text.to_owned(),
    }
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// A path or name as it stands in a URL.
pub fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) { encoded.push(byte as char) } else { encoded.push_str(&format!("%{byte:02X}")) }
    }
    encoded
}

/// The error for a scheme that this build does not open.
pub fn unknown_scheme(scheme: &str) -> Error {
    if let Some((feature, _)) = FEATURES.iter().find(|(_, schemes)| schemes.contains(&scheme)) {
        let message = format!("{scheme}: this r3map was built without it: build it with the feature {feature:?}");
        return Error::new(Code::Unsupported, message);
    }
    invalid(format!("unknown scheme {scheme:?}{}", nearest(scheme, SCHEMES, "")))
}

/// The end of an error about an unknown word: the known one it is most like, or all of them.
pub fn nearest(word: &str, known: &[&str], none: &str) -> String {
    let closest = known.iter().max_by(|a, b| {
        let (a, b) = (strsim::jaro_winkler(word, a), strsim::jaro_winkler(word, b));
        a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal)
    });
    match closest {
        None => format!(": it {none}"),
        Some(closest) if strsim::jaro_winkler(word, closest) > 0.75 => format!("; did you mean {closest:?}?"),
        Some(_) => format!("; known: {}", known.join(" ")),
    }
}

/// Parses a size: bytes as a plain number, or with `KiB`, `MiB`, `GiB` or `TiB` behind it.
pub fn parse_size(text: &str) -> Result<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(invalid(format!("{text:?} is not a size: bytes, or a number with KiB MiB GiB TiB"))),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| invalid(format!("{text:?} is not a size: bytes, or a number with KiB MiB GiB TiB")))?;
    number
        .checked_shl(shift)
        .filter(|size| size >> shift == number && *size <= i64::MAX as u64)
        .ok_or_else(|| invalid(format!("{text:?} is too large: the most is 8 EiB less one byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_plain_bytes_or_binary_units() {
        assert_eq!(parse_size("0").unwrap(), 0);
        assert_eq!(parse_size("12345").unwrap(), 12345);
        assert_eq!(parse_size("3MiB").unwrap(), 3 << 20);
        assert_eq!(parse_size("1TiB").unwrap(), 1 << 40);
        for wrong in ["", "MiB", "-1", "1MB", "1 MiB", "1.5GiB", "99999999999999999999", "8388608TiB", "0x10"] {
            assert_eq!(parse_size(wrong).unwrap_err().code(), Code::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn an_unknown_scheme_or_parameter_is_named_with_the_nearest_known_one() {
        let error = Location::parse("fiel:///x").unwrap_err();
        assert_eq!(error.message(), "unknown scheme \"fiel\"; did you mean \"file\"?");
        let error = Location::parse("memory:?sice=1").unwrap().parameters(&["size"]).err().unwrap();
        assert_eq!(error.message(), "memory:?sice=1: unknown parameter \"sice\"; did you mean \"size\"?");
    }

    #[test]
    fn paths_and_names_are_decoded_and_hosts_read() {
        let path = |text| Location::parse(text).unwrap().file_path();
        assert_eq!(path("file:///a%20b/c").unwrap(), PathBuf::from("/a b/c"));
        assert!(path("file://a/b").unwrap_err().message().contains("three slashes"));
        assert!(path("file:///a%00b").unwrap_err().message().contains("NUL"));
        let remote = Location::parse("r3map://127.0.0.1/a/b").unwrap();
        assert_eq!(remote.host_and_port(7070).unwrap(), ("127.0.0.1".to_owned(), 7070));
        assert_eq!(remote.name().unwrap(), "a/b");
        let v6 = Location::parse("r3map://[::1]:5/x").unwrap();
        assert_eq!(v6.host_and_port(7070).unwrap(), ("::1".to_owned(), 5));
        assert!(Location::parse("r3map://u:secret@h/x").unwrap_err().message().contains("no password"));
    }

    #[test]
    fn a_password_is_never_shown() {
        for (given, shown) in [
            ("redis://u:secret@h/0?size=1", "redis://u:…@h/0?size=1"),
            ("redis://:secret@h:1", "redis://:…@h:1"),
            ("rediss://u:se/cr?et@@h/0", "rediss://u:…@h/0"),
            ("r3map://u:secret@h:x/y", "r3map://u:…@h:x/y"),
            ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
            ("redis://h/0?key=a", "redis://h/0?key=a"),
            ("https://h/a?signature=secret", "https://h/a"),
            ("https://h/a?signature=secret", "https://h/a"),
        ] {
            assert_eq!(super::shown(given), shown);
        }
    }

    #[test]
    #[cfg(feature = "redis")]
    fn a_url_that_may_hold_a_password_keeps_it_to_itself() {
        let location = Location::parse("redis://me%40home:se%2Fcret@h/1?size=1").unwrap();
        assert_eq!(location.username().unwrap().as_deref(), Some("me@home"));
        assert_eq!(location.password().unwrap().unwrap().reveal(), "se/cret");
        assert!(!format!("{location:?} {}", location.as_str()).contains("cret"));
    }
}
