//! A region in Cassandra against the bare driver. `scripts/setup test` installs the server; built with the feature
//! `cassandra`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::runtime::Runtime;

use crate::stores::{SIZE, fill, free_port, read_managed};
use crate::{Directory, Measured, speed};

#[path = "../../r3map-core/tests/cassandra/words.rs"]
mod words;

const CHUNK: u64 = 64 << 10;
/// Rows that the driver is asked for at once.
const AT_ONCE: u64 = 64;

/// The server, with a directory in memory.
struct Server(Child, Directory);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Rows of 64 KiB, read in order through a managed mount and by the driver alone.
pub fn managed() -> Measured {
    let jars = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("servers/cassandra-5.0.9");
    let (Some(port), Some(storage)) = (free_port(), free_port()) else { return Measured::skipped("no free port") };
    let Some(_server) = start(&jars, port, storage) else { return Measured::skipped("no java or Cassandra") };
    let runtime = Runtime::new().unwrap();
    let Some(session) = runtime.block_on(connect(port)) else { return Measured::skipped("Cassandra does not answer") };
    let keyspace = "CREATE KEYSPACE bench WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    runtime.block_on(session.query_unpaged(keyspace, ())).unwrap();
    let url = format!("cassandra://127.0.0.1:{port}/bench/chunks?size={SIZE}&create=true");
    fill(&url);
    let session = Arc::new(session);
    speed(SIZE, || read_managed(&url), || runtime.block_on(read_bare(&session)))
}

fn start(jars: &Path, port: u16, storage: u16) -> Option<Server> {
    if !jars.exists() {
        return None;
    }
    let directory = Directory::in_memory();
    for (name, text) in words::files(directory.path(), port, storage) {
        std::fs::write(directory.path().join(name), text).ok()?;
    }
    let words = words::command(jars, directory.path().to_str()?);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    Some(Server(command.spawn().ok()?, directory))
}

async fn connect(port: u16) -> Option<Session> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(120) {
        if let Ok(session) = SessionBuilder::new().known_node(format!("127.0.0.1:{port}")).build().await {
            return Some(session);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// Reads all rows into fresh memory, many at once.
async fn read_bare(session: &Arc<Session>) -> f64 {
    let get = session.prepare("SELECT data FROM bench.chunks WHERE key = ?").await.unwrap();
    let begin = Instant::now();
    let readers = (0..AT_ONCE).map(|first| {
        let (session, get) = (session.clone(), get.clone());
        tokio::spawn(async move {
            let mut found = Vec::new();
            for chunk in (first..SIZE / CHUNK).step_by(AT_ONCE as usize) {
                let key = format!("-{}", chunk * CHUNK).into_bytes();
                let rows = session.execute_unpaged(&get, (key,)).await.unwrap().into_rows_result().unwrap();
                let (bytes,) = rows.single_row::<(&[u8],)>().unwrap();
                found.extend_from_slice(bytes);
            }
            assert_eq!(found.len() as u64, SIZE / AT_ONCE);
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    begin.elapsed().as_secs_f64()
}
