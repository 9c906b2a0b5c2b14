//! `redis://[user:password@]host:port/DB?size=…&chunk=64KiB&key=PREFIX` — a chunk a key of a Redis server, with TLS as
//! `rediss://`, of a Redis cluster as `redis+cluster://` or with `cluster=true`.
//!
//! The layout is the Go library's: the key is the chunk's byte offset in decimal, and its value the chunk. With `key=`
//! it is `PREFIX-OFFSET`, so that several regions share a database.
//!
//! The record of the writer's lease has the key `r3map-lease`, or `PREFIX-r3map-lease`. On a server alone every write is a
//! script that compares it too, so that the server itself refuses the write of one that was overtaken.
//!
//! `sync` waits for the append-only file on disk where the server can (WAITAOF, from 7.2, with `appendonly yes`).
//! Otherwise what was acknowledged is as durable as the server's own settings make it. A server that started anew
//! since it acknowledged writes may have lost them, and fails the next sync, unless it has `appendfsync always`.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value, cmd};

use super::chunked::{Chunked, Shape, Store};
use super::lease::{self, Record, Records};
use super::{BackendOptions, Info, Priority};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::runtime;
use crate::url::Location;
use crate::wire::hexadecimal;
use server::Server;

mod errors;
mod server;

const PARAMETERS: &[&str] = &["size", "chunk", "key", "cluster", "create", lease::PARAMETERS[0], lease::PARAMETERS[1]];
const DEFAULT_CHUNK: u64 = 64 << 10;
/// Chunks under way that are of use.
const CONCURRENCY: u32 = 256;
/// Bound of opening.
const OPENING: Duration = Duration::from_secs(30);
/// How long one WAITAOF waits before it is asked again; a deadline comes in between.
const WAIT_FOR_FILE: Duration = Duration::from_secs(5);

/// Puts the record that is its second argument in the place of the first, or of none.
const REPLACE: &str = "local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1";
/// Begins a write of the holder that its first argument names: nobody else may have the lease. A server that lost the
/// record with all else says nothing of it.
const FENCE: &str = "local holder = redis.call('GETRANGE', KEYS[2], 0, 31)
if holder ~= '' and holder ~= ARGV[1] then
return redis.error_reply('STALEEPOCH somebody else has the writer\\'s lease') end\n";

/// A region in a Redis server or cluster.
pub(super) struct Redis {
    name: String,
    server: Server,
    /// What stands before the offset in each key.
    prefix: String,
    knows: Knows,
    /// The holder that every write names to the server, where the server can compare it: in a cluster the keys have
    /// other places than the record.
    fence: Option<String>,
    /// Whether anything was changed since the last sync that went well.
    changed: AtomicBool,
    /// Which runs of the servers the changes are known to have gone to.
    runs: Mutex<Vec<String>>,
}

/// What a server says of its own ways of keeping bytes.
struct Knows {
    /// Whether it can say that its file is on disk.
    waits_for_file: bool,
    /// Whether every acknowledged write is on disk.
    always_on_disk: bool,
}

impl Redis {
    /// Connects to the server that the location names.
    pub fn open(location: &Location, options: &BackendOptions) -> Result<Chunked<Redis>> {
        let name = location.as_str().to_owned();
        let parameters = location.parameters(PARAMETERS)?;
        let shape = Shape::asked(&name, &parameters, DEFAULT_CHUNK)?;
        // There is nothing to make: a region without chunks is zeros.
        parameters.flag("create")?;
        let cluster = parameters.flag("cluster")? || location.scheme() == "redis+cluster";
        let terms = lease::asked(&name, &parameters)?;
        let fence = terms.as_ref().filter(|_| !cluster).map(|terms| hexadecimal(&terms.holder));
        let prefix = parameters.get("key").map_or(String::new(), |key| format!("{key}-"));
        let server = Server::named(location, options, cluster)?;
        let (limit, opening) = (Limit::within(OPENING), format!("open {name}"));
        let within = limit.clone();
        let redis = runtime::wait(&limit, &opening, async move {
            let (knows, runs) = server.look(&within).await.map_err(|error| error.context(&name))?;
            let (changed, runs) = (AtomicBool::new(false), Mutex::new(runs));
            Ok(Redis { name, server, prefix, knows, fence, changed, runs })
        })?;
        let info = Info { max_request: 32 << 20, ..shape.info(&redis.name, CONCURRENCY) };
        Ok(Chunked::leased(info, shape, redis, terms))
    }

    fn key(&self, chunk: u64) -> String {
        format!("{}{chunk}", self.prefix)
    }

    fn lease_key(&self) -> String {
        format!("{}r3map-lease", self.prefix)
    }

    /// A command that changes a chunk, for the holder of the lease alone.
    fn fenced(&self, command: &str, chunk: u64, data: Option<&[u8]>) -> Cmd {
        let Some(holder) = &self.fence else { return cmd(command).arg(self.key(chunk)).arg(data).take() };
        let data_there = if data.is_some() { ", ARGV[2]" } else { "" };
        let script = format!("{FENCE}return redis.call('{command}', KEYS[1]{data_there})");
        cmd("EVAL").arg(script).arg(2).arg(self.key(chunk)).arg(self.lease_key()).arg(holder).arg(data).take()
    }

    async fn ask(&self, what: &str, chunk: u64, command: &Cmd, priority: Priority) -> Result<Value> {
        let asked = self.server.ask(command, priority).await;
        asked.map_err(|error| error.context(format_args!("{what} its key {:?}", self.key(chunk))))
    }

    /// An error if a server may have lost what it acknowledged.
    async fn check_runs(&self) -> Result<()> {
        if self.knows.always_on_disk {
            return Ok(());
        }
        let runs = self.server.runs().await?;
        let mut known = self.runs.lock().unwrap_or_else(|e| e.into_inner());
        if *known == runs || runs.is_empty() {
            return Ok(());
        }
        *known = runs;
        let message = "the server started anew since it acknowledged writes, and may have lost them: check the region, \
                       and consider appendonly yes with appendfsync always";
        Err(Error::new(Code::Io, message))
    }
}

impl Store for Redis {
    async fn get(&self, chunk: u64, priority: Priority) -> Result<Option<Bytes>> {
        match self.ask("get", chunk, cmd("GET").arg(self.key(chunk)), priority).await? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes.into())),
            other => Err(nonsense("GET", &other)),
        }
    }

    async fn get_part(&self, chunk: u64, within: Range<u64>, priority: Priority) -> Result<Option<Bytes>> {
        let key = self.key(chunk);
        let range = cmd("GETRANGE").arg(key).arg(within.start).arg(within.end - 1).take();
        match self.ask("get a part of", chunk, &range, priority).await? {
            Value::BulkString(bytes) => Ok(Some(bytes.into())),
            other => Err(nonsense("GETRANGE", &other)),
        }
    }

    async fn put(&self, chunk: u64, data: Bytes, priority: Priority) -> Result<()> {
        self.changed.store(true, Ordering::SeqCst);
        self.ask("set", chunk, &self.fenced("SET", chunk, Some(&data)), priority).await.map(drop)
    }

    async fn delete(&self, chunk: u64, priority: Priority) -> Result<()> {
        self.changed.store(true, Ordering::SeqCst);
        self.ask("delete", chunk, &self.fenced("DEL", chunk, None), priority).await.map(drop)
    }

    async fn sync(&self) -> Result<()> {
        if !self.changed.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let synced = async {
            if self.knows.waits_for_file {
                self.server.wait_for_file(&format!("{}r3map-sync", self.prefix), WAIT_FOR_FILE).await?;
            }
            self.check_runs().await
        };
        let synced = synced.await;
        if synced.is_err() {
            self.changed.store(true, Ordering::SeqCst);
        }
        synced
    }
}

impl Records for Redis {
    async fn newest(&self) -> Result<Option<Record>> {
        match self.server.ask(cmd("GET").arg(self.lease_key()), Priority::Demand).await? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Record::decode(&bytes).map(Some),
            other => Err(nonsense("GET", &other)),
        }
    }

    async fn replace(&self, old: Option<&Record>, next: &Record) -> Result<bool> {
        let mut replace = cmd("EVAL");
        replace.arg(REPLACE).arg(1).arg(self.lease_key());
        replace.arg(old.map(Record::encode).unwrap_or_default()).arg(next.encode());
        match self.server.ask(&replace, Priority::Demand).await? {
            Value::Int(replaced) => Ok(replaced == 1),
            other => Err(nonsense("EVAL", &other)),
        }
    }
}

fn nonsense(command: &str, answer: &Value) -> Error {
    let kind = match answer {
        Value::Array(_) => "an array",
        Value::Int(_) => "a number",
        _ => "something else",
    };
    Error::new(Code::Corrupt, format!("the server answered {command} with {kind} where bytes belong"))
}
