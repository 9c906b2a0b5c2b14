//! `https://host/path` and `http://host/path` — a file of a web server, read-only, fetched by ranges.
//!
//! The size comes with the first answer. A server that gives the whole file where a range was asked for is refused. A
//! file that changes under way, by its ETag, its time or its size, is `corrupt` from then on: no two versions of it are
//! ever mixed.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, RANGE};
use reqwest::{Certificate, Client, Identity, Response, StatusCode, redirect};

use super::chunked::{Chunked, Shape, Store};
use super::{BackendOptions, Info, Priority};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::options::Secret;
use crate::runtime;
use crate::url::Location;
use crate::wire::socket;

/// The unit of transfer: what a fault fetches is a range of its own.
const CHUNK: u64 = 1 << 20;
/// Requests under way that are of use.
const CONCURRENCY: u32 = 64;
/// How many redirects in a row are followed.
const REDIRECTS: usize = 5;
/// Bound of opening.
const OPENING: Duration = Duration::from_secs(30);
const CONNECTING: Duration = Duration::from_secs(5);
/// A server that sends nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A file of a web server.
pub(super) struct Http {
    source: Source,
    size: u64,
    version: Version,
}

/// Where the file is asked for.
struct Source {
    client: Client,
    url: String,
    token: Option<Secret>,
}

/// What tells one version of a file from another, as far as its server says.
#[derive(Debug, PartialEq)]
struct Version {
    etag: Option<String>,
    modified: Option<String>,
}

/// A part of the file, and of which file.
struct Answer {
    bytes: Bytes,
    size: u64,
    version: Version,
}

impl Http {
    /// Asks the server that the location names for the first byte and the size.
    pub fn open(location: &Location, options: &BackendOptions) -> Result<Chunked<Http>> {
        let name = location.as_str().to_owned();
        let source = Source::new(location, options).map_err(|error| error.context(&name))?;
        let http = runtime::wait(&Limit::within(OPENING), &format!("open {name}"), async move {
            let found = source.fetch(0..1).await.map_err(|error| error.context(&name))?;
            Ok(Http { source, size: found.size, version: found.version })
        })?;
        let shape = Shape { size: http.size, chunk: CHUNK };
        let identity = http.version.etag.as_ref().map(|etag| {
            let hash = blake3::hash(format!("{} {etag} {}", http.source.url, http.size).as_bytes());
            let mut identity = [0; 16];
            identity.copy_from_slice(&hash.as_bytes()[..16]);
            identity
        });
        let info = Info { read_only: true, identity, ..shape.info(location.as_str(), CONCURRENCY) };
        Ok(Chunked::new(info, shape, http))
    }

    async fn part(&self, range: Range<u64>) -> Result<Option<Bytes>> {
        let wanted = range.end - range.start;
        let found = self.source.fetch(range.clone()).await?;
        if found.size != self.size || found.version != self.version {
            let message = "the file has changed since it was opened: open it anew";
            return Err(Error::new(Code::Corrupt, message));
        }
        if found.bytes.len() as u64 != wanted {
            let message = format!("the server sent {} bytes for the range {range:?}", found.bytes.len());
            return Err(Error::new(Code::Corrupt, message));
        }
        Ok(Some(found.bytes))
    }
}

impl Store for Http {
    async fn get(&self, chunk: u64, _: Priority) -> Result<Option<Bytes>> {
        self.part(chunk..self.size.min(chunk + CHUNK)).await
    }

    async fn get_part(&self, chunk: u64, within: Range<u64>, _: Priority) -> Result<Option<Bytes>> {
        self.part(chunk + within.start..chunk + within.end).await
    }

    async fn put(&self, _: u64, _: Bytes, _: Priority) -> Result<()> {
        Err(read_only())
    }

    async fn delete(&self, _: u64, _: Priority) -> Result<()> {
        Err(read_only())
    }
}

fn read_only() -> Error {
    Error::new(Code::ReadOnly, "a web server's file is read-only")
}

impl Source {
    fn new(location: &Location, options: &BackendOptions) -> Result<Source> {
        let tls = location.scheme() == "https";
        let invalid = |message: &str| Error::new(Code::InvalidArgument, message.to_owned());
        let BackendOptions { tls_cert, tls_key, tls_ca, tls_pin, token, insecure, compression: _ } = options;
        if tls_pin.is_some() {
            return Err(invalid("a web server is known by tls_ca or the system's authorities, not by tls_pin"));
        }
        if !tls {
            if tls_cert.is_some() || tls_key.is_some() || tls_ca.is_some() || token.is_some() {
                return Err(invalid("certificates and tokens need TLS: write https://"));
            }
            let (host, port) = location.host_and_port(80)?;
            socket::resolve(&host, port, *insecure)?;
        }
        let read = |path: &std::path::PathBuf| {
            std::fs::read(path).map_err(|error| Error::io(format!("read {}", path.display()), error))
        };
        // Several crates of this process may bring ciphers; the first who asks for some decides.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .redirect(redirect::Policy::custom(follow))
            .connect_timeout(CONNECTING)
            .read_timeout(SILENCE)
            .http1_only();
        if let Some(path) = tls_ca {
            let authorities = Certificate::from_pem_bundle(&read(path)?);
            client = client.tls_certs_only(authorities.map_err(|_| invalid("tls_ca is no file of certificates"))?);
        }
        match (tls_cert, tls_key) {
            (None, None) => {}
            (Some(cert), Some(key)) => {
                let both = [read(cert)?, read(key)?].concat();
                let identity = Identity::from_pem(&both).map_err(|_| invalid("tls_cert and tls_key are no pair"))?;
                client = client.identity(identity);
            }
            _ => return Err(invalid("tls_cert and tls_key go together")),
        }
        let client = client.build().map_err(|error| translate(error, "make a client"))?;
        Ok(Source { client, url: location.raw().to_string(), token: token.clone() })
    }

    /// The bytes of a range that is not empty. Of an empty file there are none.
    async fn fetch(&self, range: Range<u64>) -> Result<Answer> {
        let mut request = self.client.get(&self.url).header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let response = request.send().await.map_err(|error| translate(error, "ask for a range"))?;
        let (status, headers) = (response.status(), response.headers());
        let version = Version { etag: text(headers, &ETAG), modified: text(headers, &LAST_MODIFIED) };
        let placed = text(headers, &CONTENT_RANGE);
        let told = placed.as_deref().and_then(content_range);
        match (status, told) {
            (StatusCode::PARTIAL_CONTENT, Some((Some(place), size))) => {
                // The last range may be shorter, where the file ends.
                if place.start != range.start || place.end > range.end {
                    let message = format!("the server sent {placed:?} where the range {range:?} was asked for");
                    return Err(Error::new(Code::Corrupt, message));
                }
                let bytes = body(response, (place.end - place.start) as usize).await?;
                Ok(Answer { bytes, size, version })
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some((None, size))) => {
                Ok(Answer { bytes: Bytes::new(), size, version })
            }
            (StatusCode::OK, _) if response.content_length() == Some(0) => {
                Ok(Answer { bytes: Bytes::new(), size: 0, version })
            }
            (StatusCode::OK | StatusCode::PARTIAL_CONTENT, _) => Err(Error::new(
                Code::Unsupported,
                "the server sends the whole file where a range of it was asked for: copy the file, and open the copy",
            )),
            (status, _) => Err(refused(status)),
        }
    }
}

/// All of a body, which must have that many bytes.
async fn body(mut response: Response, length: usize) -> Result<Bytes> {
    let mut bytes = Vec::with_capacity(length);
    while let Some(piece) = response.chunk().await.map_err(|error| translate(error, "receive a range"))? {
        if bytes.len() + piece.len() > length {
            return Err(Error::new(Code::Corrupt, "the server sent more bytes than it said"));
        }
        if piece.len() == length {
            return Ok(piece);
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() < length {
        return Err(Error::new(Code::Disconnected, "the server ended before it had sent all that it said"));
    }
    Ok(bytes.into())
}

/// Which redirects are followed: few, and none out of TLS.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let stripped = attempt.previous().iter().any(|url| url.scheme() == "https") && attempt.url().scheme() != "https";
    if stripped {
        attempt.error("it redirects from https to http")
    } else if attempt.previous().len() > REDIRECTS {
        attempt.error("it redirects too often")
    } else {
        attempt.follow()
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// What `bytes 0-9/100` or `bytes */100` says: the place of the bytes, if there are any, and the size of the file.
pub fn content_range(text: &str) -> Option<(Option<Range<u64>>, u64)> {
    let (place, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let size: u64 = size.parse().ok().filter(|size| *size <= i64::MAX as u64)?;
    if place == "*" {
        return Some((None, size));
    }
    let (first, last) = place.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < size).then(|| (Some(first..last + 1), size))
}

fn refused(status: StatusCode) -> Error {
    let code = match status.as_u16() {
        401 | 407 => Code::NotAuthenticated,
        403 => Code::PermissionDenied,
        404 | 410 => Code::NotFound,
        408 | 429 | 503 => Code::Busy,
        500 | 502 | 504 => Code::Disconnected,
        _ => Code::Io,
    };
    Error::new(code, format!("the server answered {status}"))
}

/// The error of a request, without its URL, which may hold a signature.
fn translate(error: reqwest::Error, what: &str) -> Error {
    let error = error.without_url();
    let mut causes = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        causes.push_str(": ");
        causes.push_str(&next.to_string());
        cause = next.source();
    }
    let code = if error.is_redirect() || error.is_builder() {
        Code::Unsupported
    } else if causes.contains("certificate") {
        Code::NotAuthenticated
    } else if error.is_timeout() {
        Code::Timeout
    } else {
        Code::Disconnected
    };
    Error::new(code, format!("{what}: {causes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_taken_only_where_it_makes_sense() {
        assert_eq!(content_range("bytes 0-9/100"), Some((Some(0..10), 100)));
        assert_eq!(content_range("bytes */0"), Some((None, 0)));
        for wrong in
            ["", "bytes 0-9/*", "bytes 9-0/100", "bytes 0-100/100", "bytes 0-18446744073709551615/1", "0-9/100"]
        {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
        assert_eq!(content_range("bytes 0-9/99999999999999999999"), None);
    }
}
