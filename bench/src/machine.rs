//! What the figures were taken on: processor, disk, durability, and the commit.

use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use crate::measure::{Watch, latencies};
use crate::{Options, Outcome, load};

/// A few lines for the top of the report.
pub(crate) fn describe(options: &Options) -> Outcome<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches(['\t', ' ', ':'])
        });
    let cores = std::thread::available_parallelism()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (p50, p99) = flush_micros(options)?;
    Ok(format!(
        "{model}, {cores} cores, Linux {}, {}, SQLite {}.\n\
         One 256-byte append and fdatasync: p50 {p50} us, p99 {p99} us. Events carry 256 bytes of \
         JSON, a UUIDv7 id, source, type, time and media type.",
        kernel.trim(),
        moment(),
        rusqlite::version(),
    ))
}

/// When: the load there was, and the commit.
pub(crate) fn moment() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("load {load} at the start; commit {}", commit())
}

fn commit() -> String {
    let git = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    let name = git.ok().filter(|output| output.status.success());
    name.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// How long the disk takes to make 256 bytes durable.
fn flush_micros(options: &Options) -> Outcome<(u64, u64)> {
    let dir = options.fresh_dir()?;
    let mut file = File::create(dir.path().join("flush"))?;
    let mut taken = latencies();
    for _ in 0..500 {
        let watch = Watch::start();
        file.write_all(&[7; 256])?;
        file.sync_data()?;
        taken.saturating_record(load::nanos(watch) / 1_000);
    }
    Ok((
        taken.value_at_percentile(50.0),
        taken.value_at_percentile(99.0),
    ))
}
