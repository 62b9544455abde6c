//! PostgreSQL: where Debian keeps it, a copied cluster instead of a slow `initdb`, and a plain user
//! to run it where we are root.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Durability, Engine, ask};

/// Debian's directory of one subdirectory per version.
const INSTALLED: &str = "/usr/lib/postgresql";
/// Who may connect without password: everybody but the role that tests of passwords make.
const ACCESS: &str =
    "host all checked 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";

/// PostgreSQL with the superuser `postgres`; the role `checked`, once made, needs its password.
pub fn postgres() -> Engine {
    Engine {
        name: "postgres",
        package: "postgresql",
        prepare,
        command,
        ready: |address| ask(address, &startup(), b"R").unwrap_or(false),
        url: |address| format!("postgres://postgres@{address}/postgres"),
    }
}

fn command(dir: &Path, port: u16, durability: Durability) -> Command {
    let (fsync, synchronous) = match durability {
        Durability::Off => ("off", "off"),
        Durability::Periodic => ("off", "on"),
        Durability::Always => ("on", "on"),
    };
    let mut command = as_plain_user(program("postgres"));
    command.arg("-D").arg(dir.join("data"));
    let settings = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
        ("unix_socket_directories", ""),
        ("fsync", fsync),
        ("full_page_writes", fsync),
        ("synchronous_commit", synchronous),
        ("max_connections", "300"),
        ("max_prepared_transactions", "16"),
        ("shared_buffers", "64MB"),
        // The directory of a test that ended may go before its server.
        ("restart_after_crash", "on"),
    ];
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command
}

/// A fresh cluster in `dir/data`.
fn prepare(dir: &Path) -> io::Result<()> {
    let template = template()?;
    let data = dir.join("data");
    finished(Command::new("cp").arg("-a").arg(template).arg(&data))?;
    std::fs::write(data.join("pg_hba.conf"), ACCESS)?;
    match plain_user() {
        Some((uid, gid)) => chown(dir, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// A cluster to copy, made once on this machine for this version and user.
fn template() -> io::Result<PathBuf> {
    let binaries = binaries();
    let version = binaries
        .components()
        .rev()
        .nth(1)
        .map(std::path::Component::as_os_str);
    let version = version.unwrap_or_default().to_string_lossy().into_owned();
    let (uid, gid) = plain_user().unwrap_or((our_uid()?, 0));
    let template = std::env::temp_dir().join(format!("fanfare-postgres-{version}-{uid}"));
    if template.is_dir() {
        return Ok(template);
    }
    let making = tempfile::Builder::new()
        .prefix("fanfare-initdb-")
        .tempdir()?;
    if plain_user().is_some() {
        chown(making.path(), Some(uid), Some(gid))?;
    }
    let made = making.path().join("data");
    let mut initdb = as_plain_user(program("initdb"));
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8"]);
    initdb.args(["--locale=C", "--no-sync", "-D"]).arg(&made);
    finished(&mut initdb)?;
    match std::fs::rename(&made, &template) {
        // Another process was faster.
        Err(_) if template.is_dir() => Ok(template),
        renamed => renamed.map(|()| template),
    }
}

fn finished(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {said}")))
}

fn program(name: &str) -> PathBuf {
    binaries().join(name)
}

/// The programs of the newest version here; on the path where Debian has none.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir(INSTALLED).into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin"));
    let found = found.filter(|bin| bin.join("postgres").is_file());
    let newest = found.max_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name);
        version.and_then(|name| name.to_str()?.parse::<u32>().ok())
    });
    newest.unwrap_or_default()
}

/// PostgreSQL refuses to run as root; then Debian's own user for it does, or nobody.
fn as_plain_user(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = plain_user() {
        command.uid(uid).gid(gid);
    }
    // The directory we are in may be closed to that user.
    command.current_dir("/");
    command
}

fn plain_user() -> Option<(u32, u32)> {
    if our_uid().ok()? != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let of = |wanted: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(wanted))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}

fn our_uid() -> io::Result<u32> {
    std::fs::metadata("/proc/self").map(|us| us.uid())
}

/// The first message of a client: version 3.0, user and database. A server that is ready answers `R`,
/// one that starts an error.
fn startup() -> Vec<u8> {
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(parameters.len() + 8).unwrap_or(0);
    [
        &length.to_be_bytes()[..],
        &0x0003_0000_u32.to_be_bytes(),
        parameters,
    ]
    .concat()
}
