//! RabbitMQ: a node of its own, with a port mapper of its own, so that several run beside each other
//! and beside an installed one. No plugins.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Durability, Engine, ask, program};

/// Debian's script itself. The one on the path insists on a user and a directory of its own.
const INSTALLED: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// The port mapper outlives the nodes that start it, in a session of its own; started here it is a
/// child of the same shell and dies with it.
const START: &str = "epmd & exec \"$0\"";

/// Nearly full disks of build machines block no publisher.
const SETTINGS: &str = "disk_free_limit.absolute = 1MB\n";

/// Acknowledges what the system has, before it is on the disk.
const LATER: &str = "[{ra, [{wal_write_strategy, sync_after_notify}]}].\n";
const AT_ONCE: &str = "[].\n";

/// rabbitmq-server with the user `guest`.
///
/// What outlives the process is for each queue and message to say, so
/// [`Off`](Durability::Off) is the same as [`Periodic`](Durability::Periodic): quorum queues confirm
/// what is written but not flushed. With [`Always`](Durability::Always), RabbitMQ's own default, they
/// flush first.
pub fn rabbitmq() -> Engine {
    Engine {
        name: "rabbitmq",
        package: "rabbitmq-server",
        prepare,
        command,
        // Listens once everything else runs, and answers the protocol's header with a method frame
        // on channel 0.
        ready: |address| ask(address, b"AMQP\x00\x00\x09\x01", &[1, 0, 0]).unwrap_or(false),
        url: |address| format!("amqp://guest:guest@{address}/%2f"),
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    if !script().is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    std::fs::write(dir.join("rabbitmq.conf"), SETTINGS)?;
    std::fs::write(dir.join("later.config"), LATER)?;
    std::fs::write(dir.join("always.config"), AT_ONCE)?;
    std::fs::write(dir.join("plugins"), "[].\n")
}

fn command(dir: &Path, port: u16, durability: Durability) -> Command {
    let flushing = match durability {
        Durability::Off | Durability::Periodic => "later.config",
        Durability::Always => "always.config",
    };
    let files = [
        // Where the nodes of one user keep their shared secret.
        ("HOME", ""),
        ("RABBITMQ_CONF_ENV_FILE", "no-environment"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", flushing),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ("RABBITMQ_MNESIA_BASE", "data"),
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
    program("rabbitmq-server")
}
