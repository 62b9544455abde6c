//! A write that fails: the stream stops for good, says so, and the next start finds everything that was
//! acknowledged. The failure is injected by strace into a child, this binary again; where there is no
//! strace it says that it is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use fanfare_core::ErrorKind;
use fanfare_core::backend::Backend;

use super::stage::*;

/// Tells the child where its stream is.
const DIR: &str = "FANFARE_TEST_FAILING_DIR";

/// Runs [`child`] with the `nth` and every later call of `call` failing with EIO.
fn run_child(dir: &Path, call: &str, nth: u32) -> bool {
    let works = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    if !works.is_ok_and(|done| done.status.success()) {
        println!("SKIPPED: failing {call}: strace does not run here");
        return false;
    }
    let done = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:error=EIO:when={nth}+"))
        .args(["-P", &dir.join("fanfare.db-wal").display().to_string()])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "native::failing::child",
            "--ignored",
            "--nocapture",
        ])
        .env(DIR, dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    true
}

fn acknowledged(dir: &Path) -> PathBuf {
    dir.join("acknowledged")
}

/// Publishes until that fails, and writes down what was acknowledged.
#[tokio::test]
#[ignore = "runs in a child whose writes fail"]
async fn child() {
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let backend = open(&dir).await;
    let mut last = 0;
    let error = loop {
        match backend.publish(&[event(last + 1)]).await {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
    };
    std::fs::write(acknowledged(&dir), last.to_string()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Unknown, "in flight: {error}");
    let error = backend.publish(&[event(last + 2)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "afterwards: {error}");
    let error = backend.state().get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "reads too: {error}");
    assert!(!backend.admin().health().await.ok);
    backend.close().await.unwrap();
}

async fn nothing_acknowledged_is_lost(call: &str, nth: u32) {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await.unwrap();
    if !run_child(dir.path(), call, nth) {
        return;
    }
    let last = std::fs::read_to_string(acknowledged(dir.path())).unwrap();
    let last: u64 = last.parse().unwrap();
    assert!(last > 3, "{last} published before {call} failed");
    assert!(
        dir.path().join("fanfare.failed").exists(),
        "marked for checking"
    );
    let backend = open(dir.path()).await;
    assert!(!dir.path().join("fanfare.failed").exists(), "checked");
    let again = publish(&backend, 1..=last).await;
    assert!(again.iter().all(|p| p.duplicate), "everything is there");
    assert!(backend.verify(true).await.unwrap().ok);
}

#[tokio::test]
async fn a_failed_flush_stops_the_stream() {
    nothing_acknowledged_is_lost("fsync,fdatasync", 12).await;
}

#[tokio::test]
async fn a_failed_write_stops_the_stream() {
    nothing_acknowledged_is_lost("pwrite64", 40).await;
}
