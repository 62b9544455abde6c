//! `dev [streams]`: a Redis of its own and the program on it, to try things out; nothing is left
//! when it ends. Not a way to run either for real.
#![expect(clippy::print_stdout, reason = "tells whoever started it what to try")]

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use notifications::{App, Config, Result, asked_to_stop};
use tokio::net::{TcpListener, TcpStream};

/// Where its Redis listens unless `REDIS_PORT` says so.
const PORT: &str = "6390";
/// How often a starting Redis is asked whether it is there, and how long in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> Result {
    let (name, file) = match std::env::args().nth(1).as_deref() {
        None | Some("pubsub") => ("pubsub.toml", include_str!("../../pubsub.toml")),
        Some("streams") => ("streams.toml", include_str!("../../streams.toml")),
        Some(_) => return Err("usage: dev [pubsub|streams]".into()),
    };
    let dir = tempfile::tempdir()?;
    let port = std::env::var("REDIS_PORT").unwrap_or_else(|_| PORT.into());
    let _redis = Redis::start(&port, dir.path()).await?;
    let environment = |variable: &str| match variable {
        "REDIS" => Some(format!("127.0.0.1:{port}")),
        "STORE" => Some(dir.path().join("notifications.db").display().to_string()),
        other => std::env::var(other).ok(),
    };
    let config: Config = fanfare::config::parse(file, name, &environment)?;
    let app = App::start(&config).await?;
    let listener = TcpListener::bind(config.listen).await?;
    println!("{name}, with a redis on port {port}");
    println!("listening on http://{}", listener.local_addr()?);
    println!("what to try stands in examples/notifications/README.md; Ctrl-C ends it");
    app.serve(listener, asked_to_stop()).await
}

/// Dies with this value.
struct Redis(Child);

impl Redis {
    async fn start(port: &str, dir: &Path) -> Result<Self> {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--dir"])
            .arg(dir)
            .stdout(Stdio::null())
            // Ctrl-C is for the program, which still needs it.
            .process_group(0);
        let redis = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => "no redis-server here: `apt-get install redis-server`".into(),
            _ => error.to_string(),
        })?;
        let mut redis = Self(redis);
        for _ in 0..TRIES {
            if let Some(status) = redis.0.try_wait()? {
                return Err(format!("redis ended with {status}: is port {port} taken?").into());
            }
            if TcpStream::connect(format!("127.0.0.1:{port}"))
                .await
                .is_ok()
            {
                return Ok(redis);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err("redis does not answer".into())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Nothing is left to tell if even this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
