//! Network stores against the clients that come with their servers. `scripts/setup test` installs them.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use r3map_core::{BackendOptions, Mount};

use crate::{Directory, Measured, speed, time};

/// How much a store holds.
pub const SIZE: u64 = 256 << 20;
/// Whom the S3 server knows. Credentials come from the environment alone.
const KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

/// A port that nobody listens on.
pub fn free_port() -> Option<u16> {
    Some(TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port())
}

/// Somebody's server, and what it keeps in memory.
struct Server {
    child: Child,
    port: u16,
    directory: Directory,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a program; `PORT` and `DIR` in its words and its configuration stand for where it is.
    fn start(words: &[&str], configuration: &str) -> Option<Server> {
        let port = free_port()?;
        let directory = Directory::in_memory();
        let at = directory.path().to_str()?;
        let place = |text: &str| text.replace("PORT", &port.to_string()).replace("DIR", at);
        std::fs::write(directory.path().join("conf"), place(configuration)).ok()?;
        std::fs::create_dir(directory.path().join("data")).ok()?;
        let mut command = Command::new(words[0]);
        command.args(words[1..].iter().map(|word| place(word))).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server { child: command.spawn().ok()?, port, directory };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begin.elapsed() > Duration::from_secs(60) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }
}

/// Reads all of a region in order through a managed mount.
pub fn read_managed(url: &str) -> f64 {
    let mount = Mount::options().read_only(true).open_url(url, &BackendOptions::default()).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let seconds = time(|| {
        for offset in (0..SIZE).step_by(buffer.len()) {
            mount.read_at(&mut buffer, offset).unwrap();
        }
    });
    mount.close().unwrap();
    seconds
}

/// Fills a store through a mount.
pub fn fill(url: &str) {
    let mount = Mount::options().open_url(url, &BackendOptions::default()).unwrap();
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    for offset in (0..SIZE).step_by(bytes.len()) {
        mount.write_at(&bytes, offset).unwrap();
    }
    mount.close().unwrap();
}

fn run(command: &mut Command) -> f64 {
    time(|| assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()))
}

/// Chunks of 64 KiB against redis-benchmark, which throws away what it gets.
pub fn redis() -> Measured {
    let words = ["redis-server", "--port", "PORT", "--save", "", "--dir", "DIR"];
    let Some(server) = Server::start(&words, "") else { return Measured::skipped("no redis-server") };
    let url = format!("redis://127.0.0.1:{}/0?size={SIZE}", server.port);
    fill(&url);
    let gets = (SIZE >> 16).to_string();
    let port = server.port.to_string();
    let peer =
        || run(Command::new("redis-benchmark").args(["-p", &port, "-n", &gets, "-c", "8", "-P", "4", "GET", "0"]));
    speed(SIZE, || read_managed(&url), peer)
}

/// A file of nginx against curl, into a file in memory.
pub fn http() -> Measured {
    let conf = "daemon off; master_process off; pid DIR/pid; events {} \
                http { access_log off; server { listen 127.0.0.1:PORT; root DIR/data; } }";
    let Some(server) = Server::start(&["nginx", "-p", "DIR", "-c", "DIR/conf", "-e", "DIR/log"], conf) else {
        return Measured::skipped("no nginx");
    };
    let file = server.directory.path().join("data/file");
    std::fs::write(&file, vec![7; SIZE as usize]).unwrap();
    let url = format!("http://127.0.0.1:{}/file", server.port);
    let peer = || into_memory(|at| Command::new("curl").args(["-s", "-o"]).arg(at.join("file")).arg(&url).status());
    speed(SIZE, || read_managed(&url), peer)
}

/// Objects of 1 MiB against curl with sixteen at once, into files in memory.
pub fn s3() -> Measured {
    let [Ok(user), Ok(secret)] = KEYS.map(std::env::var) else {
        return Measured::skipped("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to anything");
    };
    let jar = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("servers/s3proxy-4.1.0.jar");
    if !jar.exists() {
        return Measured::skipped("no s3proxy");
    }
    let conf = format!(
        "s3proxy.endpoint=http://127.0.0.1:PORT\ns3proxy.authorization=aws-v2-or-v4\ns3proxy.identity={user}\n\
         s3proxy.credential={secret}\njclouds.provider=filesystem-nio2\njclouds.filesystem.basedir=DIR/data\n\
         jclouds.identity=x\njclouds.credential=x\n"
    );
    let words = ["java", "-Xmx256m", "-jar", jar.to_str().unwrap(), "--properties", "DIR/conf"];
    let Some(server) = Server::start(&words, &conf) else { return Measured::skipped("no java") };
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let url = format!("s3://bench/x?size={SIZE}&endpoint={endpoint}&region=us-east-1&create=true");
    fill(&url);
    let peer = || {
        into_memory(|at| {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-Z", "--parallel-max", "16", "--aws-sigv4", "aws:amz:us-east-1:s3"]);
            curl.args(["--user", &format!("{user}:{secret}"), "-o"]).arg(at.join("#1"));
            curl.arg(format!("{endpoint}/bench/x-[0-{}:{}]", SIZE - 1, 1 << 20)).status()
        })
    };
    speed(SIZE, || read_managed(&url), peer)
}

/// How long a program takes that writes into a fresh directory in memory.
fn into_memory(program: impl FnOnce(&Path) -> std::io::Result<std::process::ExitStatus>) -> f64 {
    let directory = Directory::in_memory();
    let at = PathBuf::from(directory.path());
    time(|| assert!(program(&at).unwrap().success()))
}
