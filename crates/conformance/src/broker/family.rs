//! Signals to a broker and to all processes it started, which may have left its process group. The
//! standard library has no signals but KILL, and `unsafe` is forbidden here.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long processes may take to do as they are told.
const LIMIT: Duration = Duration::from_secs(5);
/// How often they are looked at.
const POLL: Duration = Duration::from_millis(2);

/// Stops the eldest first, so that it starts no more of them, and waits until all stand still.
pub(super) fn pause(eldest: u32) -> io::Result<()> {
    signal("STOP", &[eldest])?;
    let mut family = descendants(eldest);
    signal("STOP", &family)?;
    family.push(eldest);
    wait_until(|| family.iter().all(|process| stands_still(*process)))
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
    wait_until(|| !family.iter().any(|process| runs(*process)))
}

fn wait_until(mut done: impl FnMut() -> bool) -> io::Result<()> {
    for _ in 0..LIMIT.as_millis() / POLL.as_millis() {
        if done() {
            return Ok(());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody signals what becomes of a process that is not our child"
        )]
        std::thread::sleep(POLL);
    }
    Err(io::Error::other("the processes do not as they are told"))
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
    stat_at(Path::new(&format!("/proc/{process}/stat")))
}

fn stat_at(path: &Path) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(path).ok()?;
    // The name before them is in parentheses and may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn runs(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// None of its threads does anything more: they stop one by one.
fn stands_still(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    let mut threads = threads.into_iter().flatten().flatten();
    threads.all(|thread| {
        let state = stat_at(&thread.path().join("stat"));
        state.is_none_or(|(state, _)| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}
