//! A master, its replica, and three sentinels that watch them.

use std::io;
use std::path::Path;
use std::process::Command;

use super::{agree, command, is_replica_in_step};
use crate::broker::Broker;
use crate::broker::engine::{self, Durability, Engine};

const SENTINELS: usize = 3;
/// What the sentinels call it.
const SERVICE: &str = "orders";
/// Settings of the service: milliseconds.
const SETTINGS: [(&str, &str); 2] = [
    ("down-after-milliseconds", "2000"),
    ("failover-timeout", "6000"),
];

/// They belong to one test, and die with this value.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<Broker>,
    sentinels: Vec<Broker>,
}

fn sentinel() -> Engine {
    Engine {
        prepare: |dir| std::fs::write(dir.join("sentinel.conf"), ""),
        command: |dir: &Path, port, _| -> Command {
            let mut command = Command::new(engine::program("redis-server"));
            command
                .arg(dir.join("sentinel.conf"))
                .arg("--sentinel")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
                .arg("--dir")
                .arg(dir)
                .args(["--logfile", "server.log"]);
            command
        },
        ..engine::redis()
    }
}

impl RedisSentinels {
    /// Starts all of them and waits until they know each other.
    pub async fn start(durability: Durability) -> io::Result<Self> {
        let master = Broker::start(engine::redis(), durability).await?;
        let replica = Broker::start(engine::redis(), durability).await?;
        let port = master.address().port().to_string();
        command(replica.address(), &["REPLICAOF", "127.0.0.1", &port])?;
        agree("a replica follows", || {
            is_replica_in_step(replica.address())
        })
        .await?;
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            let one = Broker::start(sentinel(), durability).await?;
            watch(&one, &master)?;
            sentinels.push(one);
        }
        let all = Self {
            servers: vec![master, replica],
            sentinels,
        };
        agree("sentinels meet", || all.know_each_other()).await?;
        Ok(all)
    }

    /// How clients reach the master.
    pub fn url(&self) -> String {
        let known = self.sentinels.iter().map(|one| one.address().to_string());
        let known: Vec<_> = known.collect();
        format!("redis+sentinel://{}/{SERVICE}", known.join(","))
    }

    /// The two servers, the first of which was the master at the start.
    pub fn servers(&self) -> &[Broker] {
        &self.servers
    }

    /// The sentinels.
    pub fn sentinels(&self) -> &[Broker] {
        &self.sentinels
    }

    /// The master, as a sentinel says.
    pub fn master(&self) -> io::Result<&Broker> {
        let mut error = io::Error::other("no sentinel answers");
        for asked in &self.sentinels {
            let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
            match command(asked.address(), &question) {
                Ok(address) => {
                    let address = address.join(":");
                    let mut servers = self.servers.iter();
                    let named = servers.find(|one| one.address().to_string() == address);
                    return named.ok_or_else(|| io::Error::other(format!("who is {address}?")));
                }
                Err(unable) => error = unable,
            }
        }
        Err(error)
    }

    /// Waits until another server than `old` is the master, and says so itself.
    pub async fn moved_from(&self, old: &Broker) -> io::Result<()> {
        agree("another server takes over", || {
            let master = self.master()?;
            let role = command(master.address(), &["ROLE"])?;
            let is_master = role.first().is_some_and(|role| role == "master");
            Ok(is_master && master.address() != old.address())
        })
        .await
    }

    /// Makes the replica a master of its own, and the sentinels watch that one alone: as if the old
    /// master were cut off from all but its clients.
    pub fn cut_off_the_master(&self) -> io::Result<()> {
        let Some(replica) = self.servers.get(1) else {
            return Ok(());
        };
        command(replica.address(), &["REPLICAOF", "NO", "ONE"])?;
        for one in &self.sentinels {
            command(one.address(), &["SENTINEL", "REMOVE", SERVICE])?;
            watch(one, replica)?;
        }
        Ok(())
    }

    fn know_each_other(&self) -> io::Result<bool> {
        for one in &self.sentinels {
            let fields = command(one.address(), &["SENTINEL", "MASTER", SERVICE])?;
            let field = |name: &str| {
                let at = fields.iter().position(|field| field == name)?;
                fields.get(at + 1)?.parse::<usize>().ok()
            };
            let others = field("num-other-sentinels") == Some(SENTINELS - 1);
            if !others || field("num-slaves") != Some(1) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn watch(sentinel: &Broker, master: &Broker) -> io::Result<()> {
    let port = master.address().port().to_string();
    let monitor = ["SENTINEL", "MONITOR", SERVICE, "127.0.0.1", &port, "2"];
    command(sentinel.address(), &monitor)?;
    for (name, value) in SETTINGS {
        command(
            sentinel.address(),
            &["SENTINEL", "SET", SERVICE, name, value],
        )?;
    }
    Ok(())
}
