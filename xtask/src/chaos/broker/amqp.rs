//! rabbitmq-server, each with a port mapper of its own. Its quorum queues flush before they confirm. It
//! hands over and forgets: what is left of an event that was settled is nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Engine, Keeps, Kept, answers, chance, program};
use crate::Result;

/// Debian's script itself: the one on the path insists on a user and a directory of its own.
const INSTALLED: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Where that keeps its versions, a directory each.
const VERSIONS: &str = "/usr/lib/rabbitmq/lib";
/// The port mapper of Erlang would outlive the broker; started here it dies with it.
const START: &str = "epmd & exec \"$0\"";
/// Nearly full disks of build machines block no publisher. In Erlang terms: a `rabbitmq.conf` is translated
/// into them at each start.
const SETTINGS: &str = "[{rabbit, [{disk_free_limit, 1000000}]}].\n";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a client says first, and what the broker then begins with: a method on channel 0.
const HELLO: &[u8] = b"AMQP\x00\x00\x09\x01";
const METHOD: u8 = 1;
const END: u8 = 0xCE;
/// When it writes down that a queue is there; 3 s or so on a machine that has nothing else to do.
const YOUNG: Duration = Duration::from_secs(8);
/// What it passes on from one queue to another without knowing that it arrived: the default of
/// `dead_letter_worker_consumer_prefetch`.
const PASSED_ON: u64 = 32;
/// The subscription whose queue is deleted.
const QUEUE: &str = "fanfare.s.immediate";

pub(super) const ENGINE: Engine = Engine {
    program: "rabbitmq-server",
    version,
    setting: "quorum queues, flushed before they confirm",
    young: YOUNG,
    copies: PASSED_ON,
    prepare,
    command,
    ready: |address| answers(address, HELLO, &[METHOD, 0, 0]).unwrap_or(false),
    delete,
    url: |address| format!("amqp://guest:guest@{address}/%2f"),
};

fn version() -> Result<String> {
    let versions = fs::read_dir(VERSIONS)?.flatten();
    let newest = versions.map(|version| version.file_name()).max();
    let newest = newest.ok_or("no version of RabbitMQ")?;
    Ok(newest.to_string_lossy().into_owned())
}

fn prepare(dir: &Path) -> Result {
    fs::write(dir.join("advanced.config"), SETTINGS)?;
    Ok(fs::write(dir.join("plugins"), "[].\n")?)
}

fn command(dir: &Path, port: u16, keeps: Keeps) -> Command {
    let data = match keeps {
        Keeps::Everything => "data".to_owned(),
        // Whoever starts looks elsewhere.
        Keeps::Nothing => chance::now().to_string(),
    };
    let files = [
        // Where the nodes of one user keep their shared secret.
        ("HOME", ""),
        ("RABBITMQ_CONF_ENV_FILE", "no-environment"),
        // Not there.
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ("RABBITMQ_MNESIA_BASE", &data),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "config"),
    ];
    let mut command = Command::new("sh");
    command.arg("-c").arg(START).arg(script());
    command.current_dir(dir);
    command.envs(files.map(|(name, file)| (name, dir.join(file))));
    command.envs([
        ("RABBITMQ_NODENAME", format!("fanfare-{port}@localhost")),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_NODE_PORT", port.to_string()),
        ("RABBITMQ_DIST_PORT", (port + 1).to_string()),
        ("ERL_EPMD_PORT", (port + 2).to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
    ]);
    command
}

fn script() -> PathBuf {
    let installed = PathBuf::from(INSTALLED);
    if installed.is_file() {
        return installed;
    }
    program(ENGINE.program)
}

/// By a client that knows nothing of what it deletes: the queue of one subscription, with all that waits
/// in it. There is nothing else to delete that would be what a subscription is.
fn delete(address: SocketAddr, kept: Kept) -> Result {
    if kept == Kept::Groups {
        return Err("on RabbitMQ a subscription is its queue".into());
    }
    let mut line = Line::open(address)?;
    line.call(
        1,
        (50, 40),
        &[&[0, 0], &short(QUEUE)[..], &[0]].concat(),
        (50, 41),
    )
}

/// Just enough of AMQP 0-9-1: a class and a method of it, and their arguments.
struct Line(TcpStream);

impl Line {
    /// With a channel, which is the first.
    fn open(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(HELLO)?;
        let mut line = Self(stream);
        line.expect((10, 10))?;
        let password = b"\0guest\0guest";
        let login = [
            // No properties of ours.
            &[0; 4],
            &short("PLAIN")[..],
            &[0, 0, 0, 12],
            password,
            &short("en_US"),
        ];
        line.call(0, (10, 11), &login.concat(), (10, 30))?;
        // Channels, bytes of a frame, and no heartbeats.
        line.send(0, (10, 31), &[0, 1, 0, 2, 0, 0, 0, 0])?;
        line.call(0, (10, 40), &[&short("/")[..], &[0, 0]].concat(), (10, 41))?;
        line.call(1, (20, 10), &[0], (20, 11))?;
        Ok(line)
    }

    /// Asks, and waits for the answer that it must be.
    fn call(
        &mut self,
        channel: u8,
        method: (u8, u8),
        arguments: &[u8],
        answer: (u8, u8),
    ) -> Result {
        self.send(channel, method, arguments)?;
        self.expect(answer)
    }

    fn send(&mut self, channel: u8, (class, method): (u8, u8), arguments: &[u8]) -> Result {
        let length = u32::try_from(arguments.len() + 4)?.to_be_bytes();
        let frame = [
            &[METHOD, 0, channel],
            &length[..],
            &[0, class, 0, method],
            arguments,
            &[END],
        ];
        Ok(self.0.write_all(&frame.concat())?)
    }

    fn expect(&mut self, wanted: (u8, u8)) -> Result {
        let mut head = [0; 7];
        self.0.read_exact(&mut head)?;
        let [_, _, _, length @ ..] = head;
        // With the byte that ends it.
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(length))? + 1];
        self.0.read_exact(&mut rest)?;
        match rest.as_slice() {
            [0, class, 0, method, ..] if (*class, *method) == wanted => Ok(()),
            _ => {
                let said = String::from_utf8_lossy(&rest);
                Err(format!("RabbitMQ did not answer {wanted:?} but: {said}").into())
            }
        }
    }
}

/// A short string, behind its length.
fn short(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[length], text.as_bytes()].concat()
}
