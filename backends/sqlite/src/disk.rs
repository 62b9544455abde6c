//! What the directory stands on: a disk, a memory, or a network that may not keep its word. Told by the
//! system's own table of mounts, where there is one.

use std::path::{Path, PathBuf};

use fanfare_core::advice::Advice;
use fanfare_core::capability::Known;

/// Where Linux lists what is mounted.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Gone with the power.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// Locks and flushes are somebody else's there.
const AWAY: [&str; 10] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "virtiofs",
    "vboxsf",
    "afs",
    "ceph",
    "glusterfs",
];

/// A kind of file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk(Option<String>);

impl Disk {
    /// Below this directory.
    pub(crate) fn of(dir: &Path) -> Self {
        let table = std::fs::read_to_string(MOUNTS).unwrap_or_default();
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        Self(kind(&table, &dir))
    }

    /// Whether what is flushed there survives a power cut.
    pub(crate) fn power_safe(&self) -> Known {
        match self.0.as_deref() {
            Some(kind) if IN_MEMORY.contains(&kind) => Known::No,
            Some(kind) if is_away(kind) => Known::Unknown,
            // Where nobody says what it is, it is a disk until the opposite is known.
            _ => Known::Yes,
        }
    }

    /// For operators.
    pub(crate) fn advice(&self) -> Advice {
        match self.0.as_deref() {
            None => Advice::note(
                "disk",
                "this system does not say what kind of file system this is",
                "make sure that it is a local disk: no memory, no network",
            ),
            Some(kind) if IN_MEMORY.contains(&kind) => Advice::bad(
                "disk",
                format!("{kind}: the database is in memory and gone when the machine stops"),
                "put the data directory on a disk",
            ),
            Some(kind) if is_away(kind) => Advice::bad(
                "disk",
                format!(
                    "{kind}: files of another machine or program. Locks and flushes are as good as \
                     theirs, and SQLite's write-ahead log asks for more than most give"
                ),
                "put the data directory on a local disk; for several machines use postgres or redis",
            ),
            Some("overlay") => Advice::note(
                "disk",
                "overlay: probably the inside of a container, and gone with it",
                "mount a volume for the data directory",
            ),
            Some(kind) => Advice::good("disk", kind),
        }
    }
}

fn is_away(kind: &str) -> bool {
    AWAY.contains(&kind) || kind.starts_with("fuse")
}

/// The kind of what is mounted nearest above `dir`; of several at one place the last.
fn kind(table: &str, dir: &Path) -> Option<String> {
    let mounts = table.lines().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let at = PathBuf::from(unescaped(place.split(' ').nth(4)?));
        Some((at, what.split(' ').next()?))
    });
    let above = mounts.filter(|(at, _)| dir.starts_with(at));
    let nearest = above.max_by_key(|(at, _)| at.components().count());
    nearest.map(|(_, kind)| kind.to_owned())
}

/// Blanks and the like stand in the table as octal numbers.
fn unescaped(text: &str) -> String {
    let mut out = text.to_owned();
    for (escaped, plain) in [("\\040", " "), ("\\011", "\t"), ("\\134", "\\")] {
        out = out.replace(escaped, plain);
    }
    out
}

#[cfg(test)]
mod tests {
    use fanfare_core::advice::Weight;

    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /dev/shm rw,nosuid - tmpfs tmpfs rw
31 22 0:50 / /mnt/the\\040share rw - nfs4 host:/export rw
32 31 8:1 / /mnt/the\\040share/disk rw - xfs /dev/sda1 rw
33 22 0:51 / /home/ada/drive rw - fuse.sshfs ada@host: rw
";

    #[test]
    fn the_nearest_mount_says_what_is_safe() {
        for (dir, power_safe, weight) in [
            ("/var/lib/fanfare", Known::Yes, Weight::Good),
            ("/dev/shm/fanfare", Known::No, Weight::Bad),
            ("/dev/shmooth", Known::Yes, Weight::Good),
            ("/mnt/the share/data", Known::Unknown, Weight::Bad),
            ("/mnt/the share/disk/data", Known::Yes, Weight::Good),
            ("/home/ada/drive", Known::Unknown, Weight::Bad),
        ] {
            let disk = Disk(kind(TABLE, Path::new(dir)));
            assert_eq!(disk.power_safe(), power_safe, "{dir}");
            assert_eq!(disk.advice().weight, weight, "{dir}");
        }
    }

    #[test]
    fn without_a_table_nobody_knows() {
        let disk = Disk(kind("", Path::new("/data")));
        assert_eq!(disk.power_safe(), Known::Yes);
        assert_eq!(disk.advice().weight, Weight::Note);
    }
}
