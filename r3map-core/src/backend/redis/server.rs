//! The connections to a Redis server or cluster, made again when they are lost.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates, Value, cmd,
};
use tokio::sync::Mutex;

use super::errors::{ends_connection, translate};
use super::{BackendOptions, Knows, Priority};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::url::Location;
use crate::wire::socket;

const PORT: u16 = 6379;
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(5);
/// An answer that takes longer ends its connection. Longer than most deadlines: until then a write that was given up
/// keeps others from its chunk.
const ANSWERING: Duration = Duration::from_secs(60);
/// Connections for what nobody waits for at this moment; what somebody waits for has one of its own.
const BULK_LANES: usize = 2;

/// A server, or the cluster that several are.
pub struct Server {
    kind: Kind,
    next: std::sync::atomic::AtomicUsize,
}

enum Kind {
    Alone { client: Client, lanes: Vec<Mutex<Lane<MultiplexedConnection>>> },
    Cluster { client: Box<ClusterClient>, lane: Mutex<Lane<ClusterConnection>> },
}

/// One connection.
struct Lane<C> {
    connection: Option<C>,
    /// Counts them.
    generation: u64,
    /// When the last attempt to connect failed, and why: who waited for it meanwhile need not try again.
    failure: Option<(Instant, Error)>,
    /// By what the server knows the last connection: its number and address.
    known_as: Option<(String, String)>,
}

impl<C> Default for Lane<C> {
    fn default() -> Lane<C> {
        Lane { connection: None, generation: 0, failure: None, known_as: None }
    }
}

impl Server {
    /// The server that a location names. Nothing is connected yet.
    pub fn named(location: &Location, options: &BackendOptions, cluster: bool) -> Result<Server> {
        let name = location.as_str();
        let invalid = |message| Error::new(Code::InvalidArgument, message);
        let tls = location.scheme() == "rediss";
        let (hosts, port) = location.host_and_port(PORT)?;
        let hosts: Vec<&str> = if cluster { hosts.split(',').collect() } else { vec![&hosts] };
        let mut addresses = Vec::new();
        for host in hosts {
            let host = host.to_owned();
            addresses.push(if tls {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                socket::resolve(&host, port, options.insecure).map_err(|error| error.context(name))?;
                ConnectionAddr::Tcp(host, port)
            });
        }
        let certificates = tls_certificates(name, options, tls)?;

        let database = location.name()?;
        let database = match database.as_str() {
            "" => 0,
            number => number.parse::<u16>().map_err(|_| invalid(format!("{name}: a database is a number: /0")))?,
        };
        if cluster && database != 0 {
            return Err(invalid(format!("{name}: a cluster has the database 0 alone")));
        }
        let mut settings = RedisConnectionInfo::default().set_db(database.into());
        if let Some(user) = location.username()? {
            settings = settings.set_username(user);
        }
        if let Some(password) = location.password()?.or_else(|| options.token.clone()) {
            settings = settings.set_password(password.reveal());
        }
        let nodes = addresses.into_iter().map(|address| {
            let node = address.into_connection_info().map_err(|error| translate(&error))?;
            Ok(node.set_redis_settings(settings.clone()))
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;

        let failed = |error| translate(&error).context(name);
        let kind = if cluster {
            let mut client =
                ClusterClientBuilder::new(nodes).retries(1).connection_timeout(CONNECTING).response_timeout(ANSWERING);
            if let Some(certificates) = certificates {
                client = client.certs(certificates);
            }
            Kind::Cluster { client: Box::new(client.build().map_err(failed)?), lane: Mutex::default() }
        } else {
            let node = nodes.into_iter().next().expect("a host has one address");
            let client = match certificates {
                Some(certificates) => Client::build_with_tls(node, certificates),
                None => Client::open(node),
            };
            let lanes = (0..=BULK_LANES).map(|_| Mutex::default()).collect();
            Kind::Alone { client: client.map_err(failed)?, lanes }
        };
        Ok(Server { kind, next: Default::default() })
    }

    /// Sends a command and waits for its answer; an error ends the connection where it is over.
    pub async fn ask(&self, command: &Cmd, priority: Priority) -> Result<Value> {
        match &self.kind {
            Kind::Alone { client, lanes } => {
                let lane = match priority {
                    Priority::Demand => 0,
                    Priority::Bulk => 1 + self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % BULK_LANES,
                };
                let lane = &lanes[lane];
                let (mut connection, generation) = ready(lane, |known_as| connect(client, known_as)).await?;
                let answer = command.query_async(&mut connection).await;
                settle(lane, generation, answer).await
            }
            Kind::Cluster { client, lane } => {
                let (mut connection, generation) = ready(lane, |_| connect_cluster(client)).await?;
                let answer = command.query_async(&mut connection).await;
                settle(lane, generation, answer).await
            }
        }
    }

    /// Asks every server that has chunks.
    async fn ask_all(&self, command: Cmd) -> Result<Vec<Value>> {
        let Kind::Cluster { client, lane } = &self.kind else {
            return Ok(vec![self.ask(&command, Priority::Demand).await?]);
        };
        let (mut connection, generation) = ready(lane, |_| connect_cluster(client)).await?;
        let everyone = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answer = connection.route_command(command, everyone).await;
        match settle(lane, generation, answer).await? {
            Value::Map(answers) => Ok(answers.into_iter().map(|(_, answer)| answer).collect()),
            Value::Array(answers) => Ok(answers),
            answer => Ok(vec![answer]),
        }
    }

    /// What the servers say of themselves: how they keep bytes, and which runs of them these are. Refuses those that
    /// would let go of chunks by themselves. Waits for one that is still loading.
    pub async fn look(&self, limit: &Limit) -> Result<(Knows, Vec<String>)> {
        let about = loop {
            match self.about().await {
                Err(error) if error.code() == Code::Busy => {
                    limit.check("wait until the server has loaded its bytes").map_err(|_| error)?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) if error.code() == Code::PermissionDenied => {
                    tracing::info!("this user may not ask the server how it keeps bytes: {error}");
                    break Vec::new();
                }
                about => break about?,
            }
        };
        let mut knows = Knows { waits_for_file: !about.is_empty(), always_on_disk: !about.is_empty() };
        for about in &about {
            let policy = field(about, "maxmemory_policy").unwrap_or_default();
            if policy.starts_with("allkeys-") && field(about, "maxmemory") != Some("0") {
                let message = format!(
                    "the server drops keys when its memory is full (maxmemory-policy {policy}), and dropped chunks \
                     would read as zeros: set maxmemory-policy noeviction"
                );
                return Err(Error::new(Code::Unsupported, message));
            }
            if field(about, "cluster_enabled") == Some("1") && matches!(self.kind, Kind::Alone { .. }) {
                let message = "the server is part of a cluster: add cluster=true to the URL";
                return Err(Error::new(Code::Unsupported, message));
            }
            let appends = field(about, "aof_enabled") == Some("1");
            knows.waits_for_file &= appends && is_7_2(field(about, "redis_version").unwrap_or_default());
            knows.always_on_disk &= appends;
        }
        // In a cluster keys have places, and so had the mark by which WAITAOF is told of other connections' writes.
        knows.waits_for_file &= matches!(self.kind, Kind::Alone { .. });
        knows.always_on_disk = knows.always_on_disk && self.syncs_always().await;
        Ok((knows, runs(&about)))
    }

    async fn about(&self) -> Result<Vec<String>> {
        let answers = self.ask_all(cmd("INFO")).await?;
        Ok(answers.into_iter().filter_map(|answer| redis::from_redis_value(answer).ok()).collect())
    }

    /// Which runs of the servers these are; none where this user may not know.
    pub async fn runs(&self) -> Result<Vec<String>> {
        match self.about().await {
            Ok(about) => Ok(runs(&about)),
            Err(error) if error.code() == Code::PermissionDenied => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn syncs_always(&self) -> bool {
        let command = cmd("CONFIG").arg("GET").arg("appendfsync").take();
        let answers = self.ask_all(command).await.unwrap_or_default();
        let always = |answer: &Value| {
            let words = redis::from_redis_value::<Vec<String>>(answer.clone()).unwrap_or_default();
            words.last().is_some_and(|word| word == "always")
        };
        !answers.is_empty() && answers.iter().all(always)
    }

    /// Waits until the server's file is on disk with all that it acknowledged so far, on whichever connection: what
    /// is written here comes after that in the file, and is gone a moment later.
    pub async fn wait_for_file(&self, mark: &str, patience: Duration) -> Result<()> {
        let Kind::Alone { client, lanes } = &self.kind else { return Ok(()) };
        let (mut connection, generation) = ready(&lanes[0], |known_as| connect(client, known_as)).await?;
        let mut both = redis::pipe();
        both.cmd("SET").arg(mark).arg("").arg("PX").arg(1000).ignore();
        both.cmd("WAITAOF").arg(1).arg(0).arg(patience.as_millis() as u64);
        let answer = both.query_async(&mut connection).await;
        let ((files, _),): ((u64, u64),) = settle(&lanes[0], generation, answer).await?;
        match files {
            0 => Err(Error::new(Code::Timeout, format!("the server's file was not on disk within {patience:?}"))),
            _ => Ok(()),
        }
    }
}

/// The connection of a lane, made now if there is none.
async fn ready<C: Clone, F>(
    lane: &Mutex<Lane<C>>,
    connect: impl FnOnce(Option<(String, String)>) -> F,
) -> Result<(C, u64)>
where
    F: Future<Output = Result<(C, Option<(String, String)>)>>,
{
    let asked = Instant::now();
    let mut lane = lane.lock().await;
    if let Some(connection) = &lane.connection {
        return Ok((connection.clone(), lane.generation));
    }
    if let Some((_, error)) = lane.failure.as_ref().filter(|(when, _)| *when >= asked) {
        return Err(error.clone());
    }
    match connect(lane.known_as.clone()).await {
        Ok((connection, known_as)) => {
            lane.connection = Some(connection.clone());
            lane.generation += 1;
            lane.known_as = known_as;
            Ok((connection, lane.generation))
        }
        Err(error) => {
            lane.failure = Some((Instant::now(), error.clone()));
            Err(error)
        }
    }
}

/// An answer, and the end of its connection where it tells of that.
async fn settle<C, T>(lane: &Mutex<Lane<C>>, generation: u64, answer: redis::RedisResult<T>) -> Result<T> {
    let error = match answer {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    if ends_connection(&error) {
        let mut lane = lane.lock().await;
        if lane.generation == generation {
            lane.connection = None;
        }
    }
    Err(translate(&error))
}

/// Connects, and has the server end the connection before, so that it does not take up late what was given up there.
async fn connect(
    client: &Client,
    before: Option<(String, String)>,
) -> Result<(MultiplexedConnection, Option<(String, String)>)> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECTING))
        .set_response_timeout(Some(ANSWERING))
        .set_pipeline_buffer_size(1024);
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = connected.map_err(|error| translate(&error).context("connect"))?;
    if let Some((id, address)) = before {
        let mut end = cmd("CLIENT");
        end.arg("KILL").arg("ID").arg(id).arg("ADDR").arg(address);
        // A server of before 2.8.12, or a user who may not: then an answer that never came stays a risk of a minute.
        let _ = end.exec_async(&mut connection).await;
    }
    let about: redis::RedisResult<String> = cmd("CLIENT").arg("INFO").query_async(&mut connection).await;
    let known_as = about.ok().and_then(|about| {
        let word = |key| about.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)).map(str::to_owned);
        Some((word("id=")?, word("addr=")?))
    });
    Ok((connection, known_as))
}

async fn connect_cluster(client: &ClusterClient) -> Result<(ClusterConnection, Option<(String, String)>)> {
    let connected = client.get_async_connection().await;
    connected.map(|connection| (connection, None)).map_err(|error| translate(&error).context("connect"))
}

fn tls_certificates(name: &str, options: &BackendOptions, tls: bool) -> Result<Option<TlsCertificates>> {
    let BackendOptions { tls_cert, tls_key, tls_ca, tls_pin, .. } = options;
    let invalid = |message: &str| Err(Error::new(Code::InvalidArgument, format!("{name}: {message}")));
    if !tls {
        let any = tls_cert.is_some() || tls_key.is_some() || tls_ca.is_some() || tls_pin.is_some();
        return if any { invalid("certificates need TLS: write rediss://") } else { Ok(None) };
    }
    if tls_pin.is_some() {
        return invalid("a Redis server is known by tls_ca or the system's authorities, not by tls_pin");
    }
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| Error::io(format!("{name}: read {}", path.display()), error))
    };
    let client_tls = match (tls_cert, tls_key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        _ => return invalid("tls_cert and tls_key go together"),
    };
    let root_cert = tls_ca.as_ref().map(read).transpose()?;
    // Several crates of this process may bring ciphers; the first who asks for some decides.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

/// A line of what INFO says.
fn field<'a>(about: &'a str, key: &str) -> Option<&'a str> {
    about.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

fn runs(about: &[String]) -> Vec<String> {
    let mut runs: Vec<String> = about.iter().filter_map(|about| field(about, "run_id")).map(str::to_owned).collect();
    runs.sort();
    runs
}

fn is_7_2(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(7), Some(2))
}
