//! A cluster of three masters, with a replica each where one is wanted.

use std::io;
use std::path::Path;
use std::process::Command;

use super::{agree, command, is_replica_in_step};
use crate::broker::Broker;
use crate::broker::engine::{self, Durability, Engine};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// How long a server may be silent before the others count it as dead, in milliseconds.
const NODE_TIMEOUT: &str = "3000";

/// A cluster that belongs to one test. It dies with this value.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<Broker>,
}

/// One server of it. It talks to the others on its next port.
fn server() -> Engine {
    Engine {
        command: |dir: &Path, port, durability| -> Command {
            let mut command = engine::redis_command(dir, port, durability);
            let between = (port + 1).to_string();
            command
                .args(["--cluster-enabled", "yes", "--cluster-port", &between])
                .args(["--cluster-node-timeout", NODE_TIMEOUT])
                .args(["--cluster-require-full-coverage", "no"]);
            command
        },
        ..engine::redis()
    }
}

impl RedisCluster {
    /// Starts one and waits until all its servers agree.
    pub async fn start(durability: Durability, replicas: bool) -> io::Result<Self> {
        let mut servers = Vec::new();
        for _ in 0..if replicas { MASTERS * 2 } else { MASTERS } {
            servers.push(Broker::start(server(), durability).await?);
        }
        let cluster = Self { servers };
        cluster.share_out()?;
        cluster.meet().await?;
        for (replica, of) in cluster.servers.iter().skip(MASTERS).zip(&cluster.servers) {
            let id = id(of)?;
            command(replica.address(), &["CLUSTER", "REPLICATE", &id])?;
        }
        agree("a cluster starts", || {
            let mut replicas = cluster.servers.iter().skip(MASTERS);
            let in_step = replicas.all(|one| is_replica_in_step(one.address()).unwrap_or(false));
            Ok(in_step && cluster.servers.iter().all(is_content))
        })
        .await?;
        Ok(cluster)
    }

    /// How clients reach it; it names some of the servers.
    pub fn url(&self) -> String {
        let known = self.servers.iter().skip(1).take(2);
        let known: Vec<_> = known.map(|one| one.address().to_string()).collect();
        format!("redis+cluster://{}/", known.join(","))
    }

    /// Its servers, the first three of which were the masters at the start.
    pub fn servers(&self) -> &[Broker] {
        &self.servers
    }

    /// The server that has this key, as another one says.
    pub fn master_of(&self, key: &str) -> io::Result<&Broker> {
        let mut error = io::Error::other("no server has the slot");
        for asked in &self.servers {
            match self.said_by(asked, key) {
                Ok(Some(master)) => return Ok(master),
                Ok(None) => {}
                Err(unable) => error = unable,
            }
        }
        Err(error)
    }

    /// Waits until another server than `old` has this key.
    pub async fn moved_from(&self, old: &Broker, key: &str) -> io::Result<()> {
        agree("another server takes over", || {
            let master = self.master_of(key)?;
            Ok(master.address() != old.address() && is_content(master))
        })
        .await
    }

    /// Gives the slot of this key to another server, one key after the other.
    pub fn move_slot(&self, key: &str, to: &Broker) -> io::Result<()> {
        let from = self.master_of(key)?;
        let (old, new) = (id(from)?, id(to)?);
        let slot = command(from.address(), &["CLUSTER", "KEYSLOT", key])?.concat();
        let set = |at: &Broker, how: &[&str]| {
            let words = [&["CLUSTER", "SETSLOT", &slot], how].concat();
            command(at.address(), &words).map(drop)
        };
        set(to, &["IMPORTING", &old])?;
        set(from, &["MIGRATING", &new])?;
        let port = to.address().port().to_string();
        loop {
            let next = command(from.address(), &["CLUSTER", "GETKEYSINSLOT", &slot, "1"])?;
            let Some(next) = next.first() else {
                break;
            };
            let migrate = ["MIGRATE", "127.0.0.1", &port, next, "0", "5000"];
            command(from.address(), &migrate)?;
        }
        set(to, &["NODE", &new])?;
        set(from, &["NODE", &new])
    }

    fn share_out(&self) -> io::Result<()> {
        for (at, one) in self.servers.iter().enumerate() {
            let epoch = (at + 1).to_string();
            command(one.address(), &["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
            if at >= MASTERS {
                continue;
            }
            let slots = SLOTS * at / MASTERS..SLOTS * (at + 1) / MASTERS;
            let slots: Vec<_> = slots.map(|slot| slot.to_string()).collect();
            let mut words = vec!["CLUSTER", "ADDSLOTS"];
            words.extend(slots.iter().map(String::as_str));
            command(one.address(), &words)?;
        }
        Ok(())
    }

    async fn meet(&self) -> io::Result<()> {
        let Some((first, others)) = self.servers.split_first() else {
            return Ok(());
        };
        for other in others {
            let port = other.address().port();
            let (port, between) = (port.to_string(), (port + 1).to_string());
            command(
                first.address(),
                &["CLUSTER", "MEET", "127.0.0.1", &port, &between],
            )?;
        }
        agree("servers meet", || {
            let knows_all = |one: &Broker| {
                let nodes = nodes(one)?;
                let known = nodes.iter().filter(|node| !node.contains("handshake"));
                Ok(known.count() == self.servers.len() && is_content(one))
            };
            let mut knowing = self.servers.iter().map(knows_all);
            knowing.try_fold(true, |all, one: io::Result<bool>| Ok(all && one?))
        })
        .await
    }

    fn said_by(&self, asked: &Broker, key: &str) -> io::Result<Option<&Broker>> {
        let slot = command(asked.address(), &["CLUSTER", "KEYSLOT", key])?.concat();
        let slot: usize = slot.parse().map_err(io::Error::other)?;
        let nodes = nodes(asked)?;
        let owner = nodes.iter().find(|node| has_slot(node, slot));
        let owner = owner.and_then(|node| node.split(' ').nth(1)?.split('@').next());
        let is_owner = |one: &&Broker| owner.is_some_and(|at| at == one.address().to_string());
        Ok(self.servers.iter().find(is_owner))
    }
}

/// Lines of `id address@port flags master ping pong epoch link slots..`.
fn nodes(asked: &Broker) -> io::Result<Vec<String>> {
    let text = command(asked.address(), &["CLUSTER", "NODES"])?.concat();
    Ok(text.lines().map(str::to_owned).collect())
}

fn has_slot(node: &str, slot: usize) -> bool {
    let fails = node
        .split(' ')
        .nth(2)
        .is_some_and(|flags| flags.contains("fail"));
    let mut ranges = node
        .split(' ')
        .skip(8)
        .filter(|range| !range.starts_with('['));
    !fails
        && ranges.any(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let bounds = from.parse().ok().zip(to.parse().ok());
            bounds.is_some_and(|(from, to): (usize, usize)| (from..=to).contains(&slot))
        })
}

fn id(of: &Broker) -> io::Result<String> {
    command(of.address(), &["CLUSTER", "MYID"]).map(|id| id.concat())
}

fn is_content(server: &Broker) -> bool {
    let info = command(server.address(), &["CLUSTER", "INFO"]);
    info.is_ok_and(|info| info.concat().contains("cluster_state:ok"))
}
