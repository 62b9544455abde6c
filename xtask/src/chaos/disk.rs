//! A disk whose power can be cut: ext4 on a loop device over a file. `FS_IOC_SHUTDOWN` without a
//! log flush makes the file system forget everything that was not yet on the disk, as a power cut
//! does. Each cut also proves itself: what was written without sync just before must be gone, what
//! was synced must not. What a disk's own cache would lose is not shown: the image has none.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::chance;
use crate::Result;
use crate::command;

/// Bytes of the image; sparse.
const SIZE: u64 = 512 << 20;

/// `FS_IOC_SHUTDOWN` with `FS_GOING_FLAGS_NOLOGFLUSH`, then SIGKILL, as soon as a byte comes. In
/// Perl, which every Debian has, so that nothing of ours is unsafe code.
const CUT: &str = r#"
    my ($dir, $pid) = @ARGV;
    open(my $root, "<", $dir) or die "open $dir: $!\n";
    my $flags = pack("L", 2);
    $| = 1;
    print "ready\n";
    sysread(STDIN, my $byte, 1) or exit 0;
    ioctl($root, 0x8004587d, $flags) or die "FS_IOC_SHUTDOWN: $!\n";
    kill 9, $pid;
    print "cut\n";
"#;

/// A mounted image.
#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
    device: String,
    mount: PathBuf,
    mounted: bool,
    cuts: u64,
}

impl Disk {
    /// Makes an image below `dir` and mounts it. The error says what the machine did not allow.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        let (image, mount) = (dir.join("disk.img"), dir.join("disk"));
        fs::create_dir_all(&mount)?;
        File::create(&image)?.set_len(SIZE)?;
        run("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])?;
        let device = run("losetup", &["-f", "--show", &image.to_string_lossy()])?;
        let mut disk = Self {
            image,
            device: device.trim().into(),
            mount,
            mounted: false,
            cuts: 0,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where the server keeps its data.
    pub(super) fn data(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// Writes the two files and gets ready to cut the power of this disk and of process `pid`.
    pub(super) fn prepare(&mut self, pid: u32) -> Result<Cutter> {
        self.cuts += 1;
        let mut synced = File::create(self.mount.join("synced"))?;
        synced.write_all(&self.cuts.to_le_bytes())?;
        synced.sync_all()?;
        File::open(&self.mount)?.sync_all()?;
        Cutter::start(&self.mount, pid)
    }

    /// A write without sync, in place where there was one before, so that no commit of the
    /// journal takes it along.
    pub(super) fn write_unsynced(&self) -> Result {
        let path = self.mount.join("unsynced");
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(file.write_all(&self.cuts.to_le_bytes())?)
    }

    /// Unplugs what is left and plugs it in again: the journal is replayed, nothing else repaired.
    /// Answers whether the unsynced write is gone.
    pub(super) fn restore(&mut self) -> Result<bool> {
        self.unmount()?;
        self.mount()?;
        let read = |name: &str| fs::read(self.mount.join(name)).unwrap_or_default();
        let stamp = self.cuts.to_le_bytes();
        if read("synced") != stamp {
            return Err("the disk itself lost a synced file: the cuts mean nothing".into());
        }
        Ok(read("unsynced") != stamp)
    }

    fn mount(&mut self) -> Result {
        run(
            "mount",
            &["-t", "ext4", &self.device, &self.mount.to_string_lossy()],
        )?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result {
        run("umount", &[&self.mount.to_string_lossy()])?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = self.unmount();
        }
        let _ = run("losetup", &["-d", &self.device]);
        let _ = fs::remove_file(&self.image);
    }
}

/// A process that waits for the moment.
#[derive(Debug)]
pub(super) struct Cutter {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Cutter {
    fn start(mount: &Path, pid: u32) -> Result<Self> {
        let mut child = Command::new("perl")
            .args(["-e", CUT])
            .arg(mount)
            .arg(pid.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("perl: {error}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("perl has no stdout")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        Ok(Self {
            child,
            stdin,
            stdout,
        })
    }

    /// Cuts, and answers a moment (microseconds since 1970) just before it.
    pub(super) fn cut(mut self) -> Result<u64> {
        let mut stdin = self.stdin.take().ok_or("perl has no stdin")?;
        let moment = chance::now();
        stdin.write_all(b"!")?;
        let mut said = String::new();
        self.stdout.read_to_string(&mut said)?;
        let status = self.child.wait()?;
        if said.trim() == "cut" {
            Ok(moment)
        } else {
            Err(format!("the power could not be cut ({status})").into())
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    // A user's path often lacks the places of system programs.
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command::output(command)
}
