//! A nats-server with a configuration of the test's own; the launcher of the suite knows one only.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fanfare_conformance::broker::Ports;
use fanfare_core::clock::Clock;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// It dies with this value.
pub(crate) struct Own {
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
    _ports: Ports,
}

impl Own {
    /// `config` gets the directory for what is kept.
    pub(crate) async fn start(config: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("fanfare-nats-")
            .tempdir()
            .unwrap();
        let ports = Ports::claim().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports.first()));
        let file = dir.path().join("server.conf");
        let listen = format!("listen: \"{address}\"\n{}", config(dir.path()));
        std::fs::write(&file, listen).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("nats-server");
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let own = Self {
            address,
            child,
            _dir: dir,
            _ports: ports,
        };
        let clock = Clock::system();
        let until = clock.now() + START;
        while TcpStream::connect(address).await.is_err() {
            assert!(clock.now() < until, "nats-server did not start");
            clock.sleep(LOOK).await;
        }
        own
    }

    /// With JetStream, and whatever else is said.
    pub(crate) async fn with(more: &str) -> Self {
        Self::start(|dir| format!("jetstream {{ store_dir: \"{}\" }}\n{more}", dir.display())).await
    }

    pub(crate) fn url(&self, who: &str) -> String {
        format!("nats://{who}{}", self.address)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It may have died already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Something that says it is this version and answers pings; for one client.
pub(crate) async fn pretender(version: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.split();
        let info = format!(
            "INFO {{\"server_id\":\"x\",\"version\":\"{version}\",\"headers\":true,\
             \"max_payload\":1048576,\"proto\":1}}\r\n"
        );
        write.write_all(info.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read.take(1 << 20)).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == "PING" {
                write.write_all(b"PONG\r\n").await.unwrap();
            }
        }
    });
    address
}
