//! `cassandra://host[,host…][:port]/KEYSPACE/TABLE?size=…&chunk=64KiB&prefix=P&consistency=quorum` — a chunk a row of a
//! table of Cassandra's or ScyllaDB's.
//!
//! The layout is the Go library's: a table with the columns `key`, text or blob, and `data`, a blob. The key is
//! `P-OFFSET`, the chunk's byte offset in decimal, also where the prefix is empty. `create=true` makes the table; how a
//! keyspace is replicated is for its owner to say. The names are taken as they stand: CQL makes names lower case that
//! are not quoted there.
//!
//! Each write bears a time of this client's that is later than any it gave or saw before, and the latest wins: so
//! nothing that was given up overtakes a later write. Hosts that write to one region one after the other need clocks
//! that agree.
//!
//! The record of the writer's lease is the row `P-r3map-lease`.
//!
//! What was acknowledged is as durable as the servers' `commitlog_sync` makes it. If as many servers as acknowledge a
//! write started anew since it was acknowledged, and keep their log by the clock, the next sync fails.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use scylla::response::query_result::QueryResult;
use scylla::value::CqlValue;

use super::chunked::{Chunked, Shape, Store};
use super::{BackendOptions, Info, Priority, lease as terms};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::runtime;
use crate::url::Location;
use cluster::{Cluster, Connected, Table};
use consistency::Level;
use runs::Runs;

mod clock;
mod cluster;
mod consistency;
mod errors;
mod lease;
mod runs;

const PARAMETERS: &[&str] =
    &["size", "chunk", "prefix", "consistency", "datacenter", "create", terms::PARAMETERS[0], terms::PARAMETERS[1]];
const DEFAULT_CHUNK: u64 = 64 << 10;
/// Longer rows are refused by servers as they come: a write may be half a segment of their log.
const MOST_CHUNK: u64 = 8 << 20;
/// Chunks under way that are of use.
const CONCURRENCY: u32 = 128;
/// Bound of opening.
const OPENING: Duration = Duration::from_secs(30);

/// A region in a table.
pub(super) struct Cassandra {
    cluster: Arc<Cluster>,
    /// What stands before the dash and the offset in each key.
    prefix: String,
    /// Whether anything was changed since the last sync that went well.
    changed: AtomicBool,
    /// Which runs of the servers the changes are known to have gone to.
    runs: Mutex<Runs>,
}

impl Cassandra {
    /// Connects to the cluster that the location names.
    pub fn open(location: &Location, options: &BackendOptions) -> Result<Chunked<Cassandra>> {
        let name = location.as_str();
        let parameters = location.parameters(PARAMETERS)?;
        let shape = Shape::asked(name, &parameters, DEFAULT_CHUNK)?;
        if shape.chunk > MOST_CHUNK {
            let message = format!("{name}: a row of Cassandra's holds no chunk beyond 8 MiB: choose a smaller chunk");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let level = Level::named(parameters.get("consistency")).map_err(|error| error.context(name))?;
        let table = Table::named(location, level, parameters.get("datacenter"), options)?;
        let terms = terms::asked(name, &parameters)?;
        let prefix = parameters.get("prefix").unwrap_or_default().to_owned();
        let (create, limit) = (parameters.flag("create")?, Limit::within(OPENING));
        let cassandra = runtime::wait(&limit, &format!("open {name}"), async move {
            let cluster = Cluster::open(table, create).await?;
            let runs = runs::of_nodes(&cluster.current()).await;
            let (changed, runs) = (AtomicBool::new(false), Mutex::new(runs));
            let cassandra = Cassandra { cluster, prefix, changed, runs };
            // What may not be read, or not at this level, is told now.
            cassandra.get(0, Priority::Demand).await?;
            Ok(cassandra)
        });
        let cassandra = cassandra.map_err(|error| error.context(name))?;
        let info = Info { max_request: 32 << 20, ..shape.info(name, CONCURRENCY) };
        Ok(Chunked::leased(info, shape, cassandra, terms))
    }

    /// The key of a chunk by its offset, or of a row that stands beside them.
    fn key(&self, row: impl Display) -> String {
        format!("{}-{row}", self.prefix)
    }

    /// The key as the table's column has it.
    fn key_at(&self, connected: &Connected, row: impl Display) -> CqlValue {
        let key = self.key(row);
        if connected.keys_are_text { CqlValue::Text(key) } else { CqlValue::Blob(key.into_bytes()) }
    }

    fn told<T>(&self, what: &str, chunk: u64, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| error.context(format_args!("{what} the row {:?}", self.key(chunk))))
    }

    /// An error if servers may have lost what they acknowledged.
    async fn check_runs(&self) -> Result<()> {
        let connected = self.cluster.current();
        let found = runs::of_nodes(&connected).await;
        if found.is_empty() {
            self.cluster.lost(&connected);
            return Err(Error::new(Code::Disconnected, "no server says whether it still has what it acknowledged"));
        }
        let mut known = self.runs.lock().unwrap_or_else(|e| e.into_inner());
        let lost = runs::started_anew(&known, &found);
        known.extend(found);
        if lost < connected.acknowledgements {
            return Ok(());
        }
        let message = "so many servers started anew since they acknowledged writes that some may be lost: check the \
                       region, and consider commitlog_sync: batch or more replicas";
        Err(Error::new(Code::Io, message))
    }
}

/// The bytes of a chunk and the time at which they were written, of a row's answer.
fn row_of(answer: QueryResult) -> Result<Option<(Option<Bytes>, Option<i64>)>> {
    let rows = answer.into_rows_result().map_err(errors::of_answer)?;
    rows.maybe_first_row().map_err(errors::of_answer)
}

impl Store for Cassandra {
    async fn get(&self, chunk: u64, _: Priority) -> Result<Option<Bytes>> {
        let asked = self.cluster.ask(|connected| (&connected.get, (self.key_at(connected, chunk),))).await;
        let Some((bytes, written)) = self.told("read", chunk, asked.and_then(row_of))? else { return Ok(None) };
        if let Some(written) = written {
            self.cluster.clock.saw(written);
        }
        Ok(bytes)
    }

    async fn put(&self, chunk: u64, data: Bytes, _: Priority) -> Result<()> {
        self.changed.store(true, Ordering::SeqCst);
        let put = self.cluster.ask(|connected| (&connected.put, (self.key_at(connected, chunk), &data))).await;
        self.told("write", chunk, put.map(drop))
    }

    async fn delete(&self, chunk: u64, _: Priority) -> Result<()> {
        self.changed.store(true, Ordering::SeqCst);
        let deleted = self.cluster.ask(|connected| (&connected.delete, (self.key_at(connected, chunk),))).await;
        self.told("delete", chunk, deleted.map(drop))
    }

    async fn sync(&self) -> Result<()> {
        if !self.changed.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let checked = self.check_runs().await;
        if checked.is_err() {
            self.changed.store(true, Ordering::SeqCst);
        }
        checked
    }
}
