//! A real Cassandra, one for all tests of a file: it takes seconds to start.

#![allow(dead_code)] // No test file uses all of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, Weak};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::runtime::Runtime;

use crate::servers::{Server, free_port, is_here, takes_connections};

mod words;

/// A node that is a cluster.
pub struct Cassandra {
    pub server: Server,
    runtime: Runtime,
}

impl Cassandra {
    /// Where scripts/setup puts it.
    fn jars() -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("servers").join("cassandra-5.0.9")
    }

    pub fn is_here() -> bool {
        is_here("java") && Cassandra::jars().exists()
    }

    /// The one that other tests of this process use as well; the last that lets go of it ends it.
    pub fn shared() -> Arc<RwLock<Cassandra>> {
        static SHARED: Mutex<Weak<RwLock<Cassandra>>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(RwLock::new(Cassandra::start()));
        *shared = Arc::downgrade(&started);
        started
    }

    fn start() -> Cassandra {
        let command = words::command(&Cassandra::jars(), "DIRECTORY");
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let prepare = |at: &Path, port: u16| {
            for (name, text) in words::files(at, port, free_port()) {
                std::fs::write(at.join(name), text).unwrap();
            }
        };
        let server = Server::start(&command, prepare, takes_connections);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cassandra = Cassandra { server, runtime };
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        cassandra.cql(&[&format!("CREATE KEYSPACE regions WITH replication = {replication}")]);
        cassandra
    }

    /// Has it write its log in that way when it is started again.
    pub fn writes_its_log(&self, how: &str) {
        let path = self.server.path().join("cassandra.yaml");
        let yaml = std::fs::read_to_string(&path).unwrap();
        let lines = yaml.lines().filter(|line| !line.starts_with("commitlog_sync"));
        let yaml: String = lines.map(|line| format!("{line}\n")).collect();
        std::fs::write(path, format!("{yaml}commitlog_sync: {how}\n")).unwrap();
    }

    pub fn url(&self, table: &str, rest: &str) -> String {
        format!("cassandra://127.0.0.1:{}/regions/{table}?{rest}", self.server.port)
    }

    async fn session(&self) -> Session {
        let node = format!("127.0.0.1:{}", self.server.port);
        SessionBuilder::new().known_node(node).fetch_schema_metadata(false).build().await.unwrap()
    }

    /// Says these statements, without this library.
    pub fn cql(&self, statements: &[&str]) {
        self.runtime.block_on(async {
            let session = self.session().await;
            for statement in statements {
                session.query_unpaged(*statement, ()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
            }
        });
    }

    /// The bytes of a row of which the statement says how to select them, if there is one.
    pub fn bytes(&self, statement: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(async {
            let answer = self.session().await.query_unpaged(statement, ()).await.unwrap();
            let rows = answer.into_rows_result().unwrap();
            rows.maybe_first_row::<(Vec<u8>,)>().unwrap().map(|(bytes,)| bytes)
        })
    }
}
