//! PostgreSQL with its own defaults for durability, run by a plain user where we are root, because it
//! refuses to run as root.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Engine, Keeps, Kept, PROBE, program, says};
use crate::{Result, command};

/// How often a deletion is tried that gets in the way of others.
const DELETIONS: u32 = 10;
/// Users to run it, the first that there is.
const PLAIN: [&str; 2] = ["postgres", "nobody"];

pub(super) const ENGINE: Engine = Engine {
    program: "postgres",
    version: || says("postgres"),
    setting: "fsync on, synchronous_commit on",
    young: Duration::ZERO,
    copies: 0,
    prepare,
    command: start,
    delete,
    ready: |address| is_ready(address).unwrap_or(false),
    url: |address| format!("postgres://postgres@{address}/postgres"),
};

fn prepare(dir: &Path) -> Result {
    if fs::metadata(dir)?.uid() == 0 {
        let (uid, gid) = plain_user().ok_or("there is no user postgres or nobody")?;
        chown(dir, Some(uid), Some(gid))?;
    }
    let mut initdb = by_owner(dir, "initdb");
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8"]);
    initdb
        .args(["--locale=C", "--no-sync", "-D"])
        .arg(dir.join("data"));
    command::output(initdb).map(|_| ())
}

fn start(dir: &Path, port: u16, keeps: Keeps) -> Command {
    let durable = match keeps {
        Keeps::Everything => "on",
        Keeps::Nothing => "off",
    };
    let mut command = by_owner(dir, ENGINE.program);
    command.arg("-D").arg(dir.join("data"));
    let settings = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
        ("unix_socket_directories", ""),
        ("fsync", durable),
        ("synchronous_commit", durable),
        ("shared_buffers", "64MB"),
    ];
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command
}

/// By a client that knows nothing of what it deletes.
fn delete(address: SocketAddr, kept: Kept) -> Result {
    let sql = match kept {
        Kept::Stream => "TRUNCATE fanfare.log",
        Kept::Groups => {
            "TRUNCATE fanfare.subscription, fanfare.lease, fanfare.waiting, fanfare.story, \
             fanfare.lane, fanfare.tally"
        }
    };
    let mut tries = DELETIONS;
    loop {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-p"]);
        psql.arg(address.port().to_string()).args(["-c", sql]);
        tries -= 1;
        match command::output(psql) {
            // The server ends one of those that wait for each other, and here it was us.
            Err(error) if tries > 0 && error.to_string().contains("deadlock detected") => {}
            done => return done.map(|_| ()),
        }
    }
}

/// A program of it, run by who owns the directory.
fn by_owner(dir: &Path, name: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Ok(owner) = fs::metadata(dir) {
        command.uid(owner.uid()).gid(owner.gid());
    }
    // The directory we are in may be closed to that user.
    command.current_dir("/");
    command
}

fn plain_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    PLAIN.iter().find_map(|wanted| {
        let mut lines = users.lines();
        let line = lines.find(|line| line.split(':').next() == Some(*wanted))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// Sends the first message of a client (version 3.0, user, database). A server that is ready answers
/// `R`, one that starts or recovers an error.
fn is_ready(address: SocketAddr) -> io::Result<bool> {
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(parameters.len() + 8).unwrap_or(0);
    let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
    stream.set_read_timeout(Some(PROBE))?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&0x0003_0000_u32.to_be_bytes())?;
    stream.write_all(parameters)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer == *b"R")
}
