//! A disk without room: publishers are refused and nothing else is, and all goes on when there is room
//! again. Needs a small file system of its own, so root; elsewhere it says that it is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fanfare_core::ErrorKind;
use fanfare_core::backend::Backend;
use fanfare_core::data::Data;
use fanfare_core::delivery::Settlement;
use fanfare_core::event::Event;
use fanfare_sqlite::{SqliteBackend, SqliteConfig};

use super::stage::*;

/// A tmpfs that goes when it is dropped.
struct SmallDisk {
    at: tempfile::TempDir,
}

impl SmallDisk {
    /// None, and a loud word, where we may not mount.
    fn mount(options: &str, why: &str) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at.path())
            .output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self { at }),
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                println!(
                    "SKIPPED: {why}: no tmpfs can be mounted here: {}",
                    said.trim()
                );
                None
            }
            Err(error) => {
                println!("SKIPPED: {why}: {error}");
                None
            }
        }
    }

    fn dir(&self) -> PathBuf {
        self.at.path().join("data")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may still hold the database.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.at.path())
            .status();
    }
}

fn big(n: u64) -> Event {
    let data = Data::binary(vec![7_u8; 64 * 1024]);
    event(n).to_builder().data(data).build().unwrap()
}

async fn fill(backend: &SqliteBackend) -> u64 {
    for n in 1..10_000 {
        match backend.publish(&[big(n)]).await {
            Ok(answers) => assert!(!answers[0].as_ref().unwrap().duplicate),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                return n - 1;
            }
        }
    }
    panic!("it never filled");
}

fn on(dir: &Path) -> SqliteConfig {
    SqliteConfig {
        reserve_bytes: 8 * 1024 * 1024,
        ..config(dir)
    }
}

#[tokio::test]
async fn a_full_disk_refuses_publishers_only_and_heals() {
    let Some(disk) = SmallDisk::mount("size=32m", "the full disk") else {
        return;
    };
    std::fs::create_dir(disk.dir()).unwrap();
    let ballast = disk.at.path().join("ballast");
    std::fs::write(&ballast, vec![0; 4 * 1024 * 1024]).unwrap();
    let config = on(&disk.dir());
    let clock = config.clock.clone();
    let backend = SqliteBackend::open(config).await.unwrap();
    backend.admin().put(&spec("all", "**")).await.unwrap();
    let stored = fill(&backend).await;
    assert!(stored > 10, "{stored} events stored");
    let health = backend.admin().health().await;
    assert!(!health.ok, "{health:?}");

    // Everything that was acknowledged can be read and settled, in many commits.
    let consumer = join(&backend, "all").await;
    let mut seen = 0;
    loop {
        let deliveries = receive(&consumer, 3).await;
        if deliveries.is_empty() {
            break;
        }
        for delivery in deliveries {
            seen += 1;
            assert_eq!(delivery.event.id(), event(seen).id());
            let retry = Settlement::Retry {
                after: Duration::ZERO,
                error: "once".into(),
            };
            let how = if delivery.attempt == 1 {
                retry
            } else {
                Settlement::Ack
            };
            settle(&consumer, &delivery, how).await;
        }
        for again in receive(&consumer, 3).await {
            if again.attempt == 2 {
                settle(&consumer, &again, Settlement::Ack).await;
            } else {
                settle(&consumer, &again, Settlement::Release).await;
            }
        }
    }
    assert_balanced(&backend).await;
    let error = backend.publish(&[big(20_000)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "still full: {error}");

    std::fs::remove_file(&ballast).unwrap();
    clock.advance(Duration::from_secs(2));
    backend.publish(&[event(30_000)]).await.unwrap();
    assert!(backend.admin().health().await.ok, "healed");
    backend.close().await.unwrap();
    let backend = SqliteBackend::open(on(&disk.dir())).await.unwrap();
    assert_eq!(backend.admin().stats().await.unwrap().events, stored + 1);
    assert_balanced(&backend).await;
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_read_only_directory_is_named() {
    let Some(disk) = SmallDisk::mount("size=4m", "the read-only directory") else {
        return;
    };
    std::fs::create_dir(disk.dir()).unwrap();
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(disk.at.path())
        .status();
    assert!(remounted.unwrap().success());
    let error = SqliteBackend::open(on(&disk.dir())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
}
