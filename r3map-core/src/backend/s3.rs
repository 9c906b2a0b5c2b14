//! `s3://bucket/prefix?size=…&chunk=1MiB` — a chunk an object of S3 or of what speaks as it does; with `object=true` one
//! object, read-only and fetched by ranges, whose size and ETag the server tells.
//!
//! The layout is the Go library's: objects are named `prefix-OFFSET`, the offset in decimal. Credentials come from where
//! they usually do, and are renewed: AWS_ACCESS_KEY_ID and its like, a profile's file, a web identity, the container or
//! the instance. `endpoint=` and `region=` say where, or AWS_ENDPOINT_URL and AWS_REGION. An object that was
//! acknowledged is durable, so `sync` has nothing to wait for. The record of the writer's lease is an object
//! `prefix-lease/EPOCH`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use super::chunked::{Chunked, Shape, Store};
use super::lease::{self, PARAMETERS as LEASE};
use super::{Backend, BackendOptions, Info, Priority};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::runtime;
use crate::url::{Location, Parameters};
use crate::wire::socket;
use errors::translate;

mod errors;
mod leased;
pub(crate) mod profile;

const PARAMETERS: &[&str] = &["size", "chunk", "endpoint", "region", "create", "object", LEASE[0], LEASE[1]];
const DEFAULT_CHUNK: u64 = 1 << 20;
/// Requests under way that are of use.
const CONCURRENCY: u32 = 64;
/// Bound of opening.
const OPENING: Duration = Duration::from_secs(30);
const CONNECTING: Duration = Duration::from_secs(5);
/// A request that takes longer is given up. Longer than most deadlines: until then a write that was given up keeps
/// others from its chunk.
const ANSWERING: Duration = Duration::from_secs(60);

/// A region in chunk objects.
struct Chunks {
    client: AmazonS3,
    prefix: String,
}

/// A region that is one object.
struct Object {
    client: AmazonS3,
    path: Path,
    found: ObjectMeta,
}

/// Opens the bucket that the location names.
pub(super) fn open(location: &Location, options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    let name = location.as_str();
    let parameters = location.parameters(PARAMETERS)?;
    let client = client(location, &parameters, options).map_err(|error| error.context(name))?;
    let prefix = location.name()?;
    let (limit, opening) = (Limit::within(OPENING), format!("open {name}"));
    if parameters.flag("object")? {
        if let Some(other) =
            ["size", "chunk", "create", LEASE[0], LEASE[1]].into_iter().find(|key| parameters.get(key).is_some())
        {
            let message = format!("{name}: object=true says which object it is: {other} has no place beside it");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let path = key(&prefix).map_err(|error| error.context(name))?;
        let object = runtime::wait(&limit, &opening, async move {
            let found = client.head(&path).await.map_err(|error| translate(error, "look at the object"))?;
            Ok(Object { client, path, found })
        });
        let object = object.map_err(|error| error.context(name))?;
        let shape = Shape { size: object.found.size, chunk: DEFAULT_CHUNK };
        let identity = object.found.e_tag.as_ref().map(|etag| {
            let hash = blake3::hash(format!("{name} {etag}").as_bytes());
            std::array::from_fn(|at| hash.as_bytes()[at])
        });
        let info = Info { read_only: true, identity, ..shape.info(name, CONCURRENCY) };
        return Ok(Arc::new(Chunked::new(info, shape, object)));
    }
    let shape = Shape::asked(name, &parameters, DEFAULT_CHUNK)?;
    // Before anything is asked: no chunk has a name that S3 would take for another.
    key(&format!("{prefix}-0")).map_err(|error| error.context(name))?;
    let create = parameters.flag("create")?;
    let terms = lease::asked(name, &parameters)?;
    let store = Chunks { client, prefix };
    let store = runtime::wait(&limit, &opening, async move {
        match store.look_patiently().await {
            Err(error) if error.code() == Code::NotFound && create => {
                store.create().await?;
                store.look().await?;
            }
            looked => looked?,
        }
        Ok(store)
    });
    let store = store.map_err(|error| error.context(name))?;
    Ok(Arc::new(Chunked::leased(shape.info(name, CONCURRENCY), shape, store, terms)))
}

fn client(location: &Location, parameters: &Parameters, options: &BackendOptions) -> Result<AmazonS3> {
    let BackendOptions { tls_cert, tls_key, tls_ca, tls_pin, token, insecure, compression: _ } = options;
    if tls_cert.is_some() || tls_key.is_some() || tls_pin.is_some() || token.is_some() {
        let message = "S3 knows its clients by the credentials of the environment, and is known by tls_ca or the \
                       system's authorities: no tls_cert, tls_key, tls_pin or token";
        return Err(Error::new(Code::InvalidArgument, message));
    }
    // Several crates of this process may bring ciphers; the first who asks for some decides.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = ClientOptions::new().with_connect_timeout(CONNECTING).with_timeout(ANSWERING);
    if let Some(path) = tls_ca {
        let failed = |error| Error::io(format!("read {}", path.display()), error);
        let authorities = object_store::Certificate::from_pem_bundle(&std::fs::read(path).map_err(failed)?);
        for authority in authorities.map_err(|error| translate(error, "read tls_ca"))? {
            client = client.with_root_certificate(authority);
        }
    }
    // Attempts are repeated here, where the deadline is known.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let (bucket, _) = location.host_and_port(443)?;
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    builder = builder.with_conditional_put(S3ConditionalPut::ETagMatch);
    let environment = |key| std::env::var(key).ok().filter(|value| !value.is_empty());
    let from_environment = || environment("AWS_ENDPOINT_URL_S3").or_else(|| environment("AWS_ENDPOINT_URL"));
    if let Some(endpoint) = parameters.get("endpoint").map(str::to_owned).or_else(from_environment) {
        if let Some(plain) = endpoint.strip_prefix("http://") {
            let authority = plain.split('/').next().unwrap_or_default();
            let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
            let invalid = |_| Error::new(Code::InvalidArgument, format!("endpoint {endpoint:?} has no port that fits"));
            socket::resolve(host.trim_matches(['[', ']']), port.parse().map_err(invalid)?, *insecure)?;
            client = client.with_allow_http(true);
        }
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = parameters.get("region") {
        builder = builder.with_region(region);
    }
    if let Some(credentials) = profile::credentials()? {
        builder = builder.with_credentials(credentials);
    }
    builder.with_client_options(client).build().map_err(|error| translate(error, "configure S3"))
}

/// The name of an object, which must be one that S3 and all on the way to it leave as it is.
fn key(name: &str) -> Result<Path> {
    let refused = |why: String| Error::new(Code::InvalidArgument, format!("no object can be named {name:?}: {why}"));
    let path = Path::parse(name).map_err(|error| refused(error.to_string()))?;
    if path.as_ref() != name || name.is_empty() {
        return Err(refused("it is empty, or begins or ends with a slash".to_owned()));
    }
    Ok(path)
}

async fn fetch(client: &AmazonS3, path: &Path, options: GetOptions) -> object_store::Result<(Bytes, ObjectMeta)> {
    let found = client.get_opts(path, options).await?;
    let about = found.meta.clone();
    Ok((found.bytes().await?, about))
}

impl Chunks {
    fn path(&self, chunk: u64) -> Result<Path> {
        key(&format!("{}-{chunk}", self.prefix))
    }

    /// An error unless the bucket is there and shows its objects.
    async fn look(&self) -> Result<()> {
        let range = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
        match fetch(&self.client, &self.path(0)?, range).await {
            Ok(_) => Ok(()),
            Err(error) if errors::is_missing_object(&error) || errors::is_empty_object(&error) => Ok(()),
            Err(error) => Err(translate(error, "look for the first chunk")),
        }
    }

    /// The same, asked again a few times where the server is busy.
    async fn look_patiently(&self) -> Result<()> {
        for pause in [50, 100, 200, 400] {
            match self.look().await {
                Err(error) if error.code() == Code::Busy => tokio::time::sleep(Duration::from_millis(pause)).await,
                looked => return looked,
            }
        }
        self.look().await
    }

    /// Makes the bucket.
    async fn create(&self) -> Result<()> {
        let signed = self.client.signed_url(http::Method::PUT, &Path::default(), ANSWERING).await;
        let url = signed.map_err(|error| translate(error, "sign the making of the bucket"))?;
        let failed =
            |error: reqwest::Error| Error::new(Code::Disconnected, format!("make the bucket: {}", error.without_url()));
        let answer = reqwest::Client::new().put(url).send().await.map_err(failed)?;
        match answer.status().as_u16() {
            200..=299 | 409 => Ok(()),
            403 => Err(Error::new(Code::PermissionDenied, "these credentials may not make the bucket")),
            _ => Err(Error::new(Code::Io, format!("make the bucket: the server answered {}", answer.status()))),
        }
    }
}

impl Store for Chunks {
    async fn get(&self, chunk: u64, _: Priority) -> Result<Option<Bytes>> {
        match fetch(&self.client, &self.path(chunk)?, GetOptions::default()).await {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(error) if errors::is_missing_object(&error) => Ok(None),
            Err(error) => Err(translate(error, &format!("get the chunk at {chunk}"))),
        }
    }

    async fn get_part(&self, chunk: u64, within: Range<u64>, _: Priority) -> Result<Option<Bytes>> {
        let range = GetOptions { range: Some(GetRange::Bounded(within)), ..GetOptions::default() };
        match fetch(&self.client, &self.path(chunk)?, range).await {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(error) if errors::is_missing_object(&error) || errors::is_empty_object(&error) => Ok(None),
            Err(error) => Err(translate(error, &format!("get a part of the chunk at {chunk}"))),
        }
    }

    async fn put(&self, chunk: u64, data: Bytes, _: Priority) -> Result<()> {
        let put = self.client.put(&self.path(chunk)?, data.into()).await;
        put.map(drop).map_err(|error| translate(error, &format!("put the chunk at {chunk}")))
    }

    async fn delete(&self, chunk: u64, _: Priority) -> Result<()> {
        match self.client.delete(&self.path(chunk)?).await {
            Err(error) if !errors::is_missing_object(&error) => {
                Err(translate(error, &format!("delete the chunk at {chunk}")))
            }
            _ => Ok(()),
        }
    }
}

impl Object {
    async fn part(&self, range: Range<u64>) -> Result<Option<Bytes>> {
        let wanted = range.end - range.start;
        let if_match = self.found.e_tag.clone();
        let options = GetOptions { range: Some(GetRange::Bounded(range)), if_match, ..GetOptions::default() };
        let changed = || Error::new(Code::Corrupt, "the object has changed since it was opened: open it anew");
        match fetch(&self.client, &self.path, options).await {
            // Some servers do not look at the condition.
            Ok((_, about)) if (&about.e_tag, about.size) != (&self.found.e_tag, self.found.size) => Err(changed()),
            Ok((bytes, _)) if bytes.len() as u64 == wanted => Ok(Some(bytes)),
            Ok(_) => Err(Error::new(Code::Corrupt, "the server sent another number of bytes than was asked for")),
            Err(object_store::Error::Precondition { .. }) => Err(changed()),
            Err(error) if errors::is_empty_object(&error) => Err(changed()),
            Err(error) => Err(translate(error, "get a range of the object")),
        }
    }
}

impl Store for Object {
    async fn get(&self, chunk: u64, _: Priority) -> Result<Option<Bytes>> {
        self.part(chunk..self.found.size.min(chunk + DEFAULT_CHUNK)).await
    }

    async fn get_part(&self, chunk: u64, within: Range<u64>, _: Priority) -> Result<Option<Bytes>> {
        self.part(chunk + within.start..chunk + within.end).await
    }

    async fn put(&self, _: u64, _: Bytes, _: Priority) -> Result<()> {
        Err(Error::new(Code::ReadOnly, "one object of S3 is read-only"))
    }

    async fn delete(&self, _: u64, _: Priority) -> Result<()> {
        Err(Error::new(Code::ReadOnly, "one object of S3 is read-only"))
    }
}
