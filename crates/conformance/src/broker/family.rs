//! Signals to a broker and to all processes it started, which may have left its process group. The
//! standard library has no signals but KILL, and `unsafe` is forbidden here.

use std::io;
use std::process::Command;
use std::time::Duration;

/// How long killed processes may take to go.
const GONE_LIMIT: Duration = Duration::from_secs(5);
/// How often they are looked for.
const GONE_POLL: Duration = Duration::from_millis(2);

/// Stops the eldest first, so that it starts no more of them.
pub(super) fn pause(eldest: u32) -> io::Result<()> {
    signal("STOP", &[eldest])?;
    signal("STOP", &descendants(eldest))
}

pub(super) fn resume(eldest: u32) -> io::Result<()> {
    signal("CONT", &descendants(eldest))?;
    signal("CONT", &[eldest])
}

/// Kills what `eldest` started, and waits for it; `eldest` itself stays stopped, for its parent to
/// kill.
pub(super) fn kill(eldest: u32) -> io::Result<()> {
    signal("STOP", &[eldest])?;
    let family = descendants(eldest);
    signal("KILL", &family)?;
    let polls = GONE_LIMIT.as_millis() / GONE_POLL.as_millis();
    for _ in 0..polls {
        if !family.iter().any(|process| runs(*process)) {
            return Ok(());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody signals the end of a process that is not our child"
        )]
        std::thread::sleep(GONE_POLL);
    }
    Err(io::Error::other("killed processes did not go"))
}

fn signal(name: &str, processes: &[u32]) -> io::Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    let ids = processes.iter().map(u32::to_string);
    // One may have ended meanwhile, which fails the command.
    Command::new("kill")
        .arg(format!("-{name}"))
        .args(ids)
        .output()
        .map(drop)
}

/// Its children, their children, and so on.
fn descendants(eldest: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, stat(process)?.1)))
        .collect();
    let mut family = vec![eldest];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        let born = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(born.map(|(process, _)| *process));
        at += 1;
    }
    family.split_off(1)
}

/// Its state and its parent.
fn stat(process: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before them is in parentheses and may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn runs(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}
