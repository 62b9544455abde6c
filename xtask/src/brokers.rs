//! The foreign brokers that tests start for themselves, each test its own. Not a launcher.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::command;

/// Debian package and a program of it.
const BROKERS: [(&str, &str); 4] = [
    ("redis-server", "redis-server"),
    ("nats-server", "nats-server"),
    ("rabbitmq-server", "rabbitmq-server"),
    ("postgresql", "postgres"),
];

/// What `invoke-rc.d` asks before it starts a service; 101 says no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// apt-get, downloads included.
const INSTALL_LIMIT: Duration = Duration::from_mins(15);

/// Makes sure that the programs are there, installs what is missing where that is allowed, and
/// says which came how.
pub(crate) fn ensure() -> Result<String> {
    let missing: Vec<&str> = BROKERS
        .iter()
        .filter(|(_, program)| find(program).is_none())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok("all there".into());
    }
    install(&missing).map_err(|error| {
        format!(
            "missing: {0}\n{error}\ninstall them and run again:\n    \
             sudo apt-get install -y --no-install-recommends {0}\n\
             (no service of theirs has to run; tests start their own)",
            missing.join(" ")
        )
    })?;
    match BROKERS.iter().find(|(_, program)| find(program).is_none()) {
        None => Ok(format!("installed {}", missing.join(" "))),
        Some((package, program)) => {
            Err(format!("{package} is installed, but there is no {program}").into())
        }
    }
}

fn install(packages: &[&str]) -> Result {
    let _quiet = NoServices::start()?;
    let mut update = Command::new("apt-get");
    update.args(["update", "-qq"]);
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages);
    for mut step in [update, install] {
        step.env("DEBIAN_FRONTEND", "noninteractive");
        let status = command::stream(step, INSTALL_LIMIT, |_| {})?;
        if !status.success() {
            return Err(format!("apt-get: {status}").into());
        }
    }
    disable(packages);
    Ok(())
}

/// Packages enable their services for the next boot; undo that. Where there is no systemd there is
/// nothing to undo, so failing is fine.
fn disable(packages: &[&str]) {
    let mut disable = Command::new("systemctl");
    disable.args(["disable", "--quiet"]).args(packages);
    if packages.contains(&"rabbitmq-server") {
        // Comes with Erlang.
        disable.args(["epmd.service", "epmd.socket"]);
    }
    let _ = command::output(disable);
}

/// While it lives, installing a package starts no service.
#[derive(Debug)]
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn start() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// On the path, where Debian keeps servers, or in PostgreSQL's own place.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let postgres = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .chain(postgres)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
