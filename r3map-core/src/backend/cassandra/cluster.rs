//! The connections to a cluster, and what is asked by them.

use std::num::NonZeroUsize;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::cluster::metadata::{ColumnType, NativeType, Peer};
use scylla::policies::host_filter::HostFilter;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::clock::Clock;
use super::consistency::Level;
use super::{BackendOptions, errors};
use crate::error::{Code, Error, Result};
use crate::options::Secret;
use crate::url::Location;
use crate::wire::socket;

const PORT: u16 = 9042;
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(5);
/// A request that takes longer is given up. Longer than most deadlines: until then a write that was given up keeps
/// others from its chunk.
const ANSWERING: Duration = Duration::from_secs(60);
/// A connection is over whose server does not answer a question that is asked this often for twice as long.
const STILL_THERE: Duration = Duration::from_secs(10);
/// Connections to each server that has no shards.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Where a region lies, and how it is asked for.
pub struct Table {
    nodes: Vec<String>,
    user: Option<(String, Secret)>,
    keyspace: String,
    table: String,
    level: Level,
    datacenter: Option<String>,
    insecure: bool,
}

/// A cluster, by connections that are replaced when no server can be reached by them.
pub struct Cluster {
    table: Table,
    pub clock: Clock,
    current: RwLock<Arc<Connected>>,
    renewing: tokio::sync::Mutex<()>,
}

/// Connections, and the statements that the servers know.
pub struct Connected {
    pub session: Session,
    pub get: PreparedStatement,
    pub put: PreparedStatement,
    pub delete: PreparedStatement,
    /// Reads a row that is changed by conditions, after any change that is under way.
    pub look: PreparedStatement,
    pub claim: PreparedStatement,
    pub replace: PreparedStatement,
    /// Whether the column of keys is text rather than a blob, as the Go library's own command makes it.
    pub keys_are_text: bool,
    /// How many servers acknowledge a write.
    pub acknowledgements: usize,
}

/// Servers of this host.
struct Near;

impl HostFilter for Near {
    fn accept(&self, peer: &Peer) -> bool {
        peer.address.ip().is_loopback()
    }
}

impl Table {
    /// The table that a location names. Nothing is connected yet.
    pub fn named(
        location: &Location,
        level: Level,
        datacenter: Option<&str>,
        options: &BackendOptions,
    ) -> Result<Table> {
        let name = location.as_str();
        let BackendOptions { tls_cert, tls_key, tls_ca, tls_pin, token, insecure, compression: _ } = options;
        let invalid = |message: String| Error::new(Code::InvalidArgument, format!("{name}: {message}"));
        if tls_cert.is_some() || tls_key.is_some() || tls_ca.is_some() || tls_pin.is_some() {
            let message = format!("{name}: Cassandra is spoken to by plain TCP alone: no certificates, keys or pins");
            return Err(Error::new(Code::Unsupported, message));
        }
        let (hosts, port) = location.host_and_port(PORT)?;
        let mut nodes = Vec::new();
        for host in hosts.split(',') {
            socket::resolve(host, port, *insecure).map_err(|error| error.context(name))?;
            nodes.push(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
        }
        let path = location.name()?;
        let (keyspace, table) = path.split_once('/').unwrap_or((&path, ""));
        for (word, what) in [(keyspace, "keyspace"), (table, "table")] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if word.is_empty() || word.len() > 48 || !word.bytes().all(plain) {
                let message = "is 1 to 48 letters, digits and underscores: cassandra://HOST/KEYSPACE/TABLE";
                return Err(invalid(format!("the {what} {word:?} {message}")));
            }
        }
        let user = match (location.username()?, token) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user, password.clone())),
            (Some(_), None) => return Err(invalid("the user's password is missing: give it as token".into())),
            (None, Some(_)) => return Err(invalid("the token is whose password? Write cassandra://USER@HOST".into())),
        };
        let (keyspace, table) = (keyspace.to_owned(), table.to_owned());
        let datacenter = datacenter.map(str::to_owned);
        Ok(Table { nodes, user, keyspace, table, level, datacenter, insecure: *insecure })
    }

    /// The name as it stands in a statement.
    fn quoted(&self) -> String {
        format!("\"{}\".\"{}\"", self.keyspace, self.table)
    }

    async fn session(&self, clock: &Clock) -> Result<Session> {
        let mut policy = DefaultPolicy::builder().token_aware(true);
        if let Some(datacenter) = &self.datacenter {
            policy = policy.prefer_datacenter(datacenter.clone()).permit_dc_failover(!self.level.is_local());
        }
        let profile = ExecutionProfile::builder()
            .consistency(self.level.consistency)
            .serial_consistency(Some(self.level.serial()))
            .request_timeout(Some(ANSWERING))
            .load_balancing_policy(policy.build());
        let mut session = SessionBuilder::new()
            .known_nodes(&self.nodes)
            .keyspaces_to_fetch([&self.keyspace])
            .default_execution_profile_handle(profile.build().into_handle())
            .timestamp_generator(Arc::new(clock.clone()))
            .connection_timeout(CONNECTING)
            .keepalive_interval(STILL_THERE)
            .keepalive_timeout(STILL_THERE)
            .pool_size(PoolSize::PerHost(CONNECTIONS));
        if let Some((user, password)) = &self.user {
            session = session.user(user, password.reveal());
        }
        if !self.insecure {
            session = session.host_filter(Arc::new(Near));
        }
        session.build().await.map_err(|error| errors::of_session(&error).context("connect"))
    }

    async fn prepare(&self, session: &Session, statement: String) -> Result<PreparedStatement> {
        let prepared = session.prepare(statement).await;
        let mut prepared = prepared.map_err(|error| errors::of_prepare(&error).context("prepare"))?;
        // Whatever is asked twice does the same as once.
        prepared.set_is_idempotent(true);
        Ok(prepared)
    }

    /// Makes the table, as the Go library's command does.
    async fn create(&self, session: &Session) -> Result<()> {
        let statement = format!("CREATE TABLE IF NOT EXISTS {} (key blob PRIMARY KEY, data blob)", self.quoted());
        let created = session.query_unpaged(statement, ()).await;
        created.map(drop).map_err(|error| errors::of_request(&error).context("make the table"))
    }

    async fn connect(&self, clock: &Clock, create: bool) -> Result<Connected> {
        let session = self.session(clock).await?;
        let state = session.get_cluster_state();
        let Some(keyspace) = state.get_keyspace(&self.keyspace) else {
            let message = format!(
                "there is no keyspace {:?}; in CQL: CREATE KEYSPACE {} WITH replication = {{…}}",
                self.keyspace, self.keyspace
            );
            return Err(Error::new(Code::NotFound, message));
        };
        let acknowledgements = self.level.acknowledgements(&keyspace.strategy, self.datacenter.as_deref())?;
        let table = self.quoted();
        let insert = format!("INSERT INTO {table} (key, data) VALUES (?, ?)");
        let select = format!("SELECT data, WRITETIME(data) FROM {table} WHERE key = ?");
        let get = match self.prepare(&session, select.clone()).await {
            Err(error) if error.code() == Code::NotFound && create => {
                self.create(&session).await?;
                self.prepare(&session, select).await?
            }
            Err(error) if error.code() == Code::NotFound => {
                return Err(Error::new(Code::NotFound, format!("{}: create=true makes it", error.message())));
            }
            prepared => prepared?,
        };
        let put = self.prepare(&session, insert.clone()).await?;
        let delete = self.prepare(&session, format!("DELETE FROM {table} WHERE key = ?")).await?;
        let types: Vec<_> = put.get_variable_col_specs().iter().map(|column| column.typ().clone()).collect();
        let keys_are_text = match types[..] {
            [ColumnType::Native(NativeType::Text | NativeType::Ascii), ColumnType::Native(NativeType::Blob)] => true,
            [ColumnType::Native(NativeType::Blob), ColumnType::Native(NativeType::Blob)] => false,
            _ => {
                let message = format!("{table} is no table of chunks: its key is text or a blob, its data a blob");
                return Err(Error::new(Code::Unsupported, message));
            }
        };
        let mut look = get.clone();
        look.set_consistency(self.level.looking());
        let mut claim = self.prepare(&session, format!("{insert} IF NOT EXISTS")).await?;
        let replace = format!("UPDATE {table} SET data = ? WHERE key = ? IF data = ?");
        let mut replace = self.prepare(&session, replace).await?;
        // Asked again, a change that was made would seem to be another's.
        claim.set_is_idempotent(false);
        replace.set_is_idempotent(false);
        Ok(Connected { session, get, put, delete, look, claim, replace, keys_are_text, acknowledgements })
    }
}

impl Cluster {
    /// Connects to the cluster that has the table; makes the table if it is missing and `create` says so.
    pub async fn open(table: Table, create: bool) -> Result<Arc<Cluster>> {
        let clock = Clock::default();
        let current = RwLock::new(Arc::new(table.connect(&clock, create).await?));
        Ok(Arc::new(Cluster { table, clock, current, renewing: Default::default() }))
    }

    /// The connections of this moment.
    pub fn current(&self) -> Arc<Connected> {
        self.current.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Asks what `question` makes of the connections of this moment.
    pub async fn ask<V: SerializeRow>(
        self: &Arc<Self>,
        question: impl FnOnce(&Connected) -> (&PreparedStatement, V),
    ) -> Result<QueryResult> {
        let connected = self.current();
        let (statement, values) = question(&connected);
        let answer = connected.session.execute_unpaged(statement, values).await;
        answer.map_err(|error| {
            if errors::reached_none(&error) {
                self.lost(&connected);
            }
            errors::of_request(&error)
        })
    }

    /// Replaces connections by which no server is reached, soon.
    pub fn lost(self: &Arc<Self>, connected: &Arc<Connected>) {
        tokio::spawn(self.clone().renew(connected.clone()));
    }

    /// Connects anew in place of connections by which no server was reached: the driver itself tries ever less often,
    /// and servers may have other addresses by now.
    async fn renew(self: Arc<Self>, lost: Arc<Connected>) {
        let Ok(_alone) = self.renewing.try_lock() else { return };
        if !Arc::ptr_eq(&lost, &self.current()) {
            return;
        }
        match self.table.connect(&self.clock, false).await {
            Ok(fresh) => *self.current.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(fresh),
            Err(error) => tracing::debug!("no connection to the cluster yet: {error}"),
        }
    }
}
