//! What the server's settings mean for what is kept there. Nothing is changed.

use std::collections::HashMap;

use fanfare_core::advice::Advice;
use fanfare_core::error::Result;

use crate::connect::Wire;

/// What the server says, by name.
#[derive(Debug, Default)]
struct Said {
    info: HashMap<String, String>,
    /// None where the user may not ask.
    settings: Option<HashMap<String, String>>,
}

impl Said {
    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn is(&self, setting: &str, value: &str) -> bool {
        let settings = self.settings.as_ref();
        settings
            .and_then(|all| all.get(setting))
            .is_some_and(|is| is == value)
    }

    fn setting(&self, name: &str) -> &str {
        let settings = self.settings.as_ref();
        settings
            .and_then(|all| all.get(name))
            .map_or("", String::as_str)
    }
}

/// Everything there is to say about this server.
pub(crate) async fn of(wire: &Wire) -> Result<Vec<Advice>> {
    let mut info = redis::cmd("INFO");
    info.arg("all");
    let text: String = wire.run(&info).await?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("*");
    let said = Said {
        info: pairs
            .map(|(name, value)| (name.into(), value.trim().into()))
            .collect(),
        // Managed servers forbid it.
        settings: wire.try_run(&ask).await.ok(),
    };
    let mut all = vec![Advice::good(
        "version",
        format!("redis {}", said.info("redis_version")),
    )];
    match said.settings {
        Some(_) => all.extend([kept(&said), memory(&said)]),
        None => all.push(Advice::note(
            "settings",
            "this user may not run CONFIG GET, so nobody here knows how the server keeps its data",
            "look at appendonly, appendfsync and maxmemory-policy where the server is managed, or \
             allow the user +config|get",
        )),
    }
    all.extend(writing(&said));
    all.extend(replicas(&said, wire.config.wait_replicas));
    Ok(all)
}

/// What a death of the server or of its machine costs.
fn kept(said: &Said) -> Advice {
    if !said.is("appendonly", "yes") {
        return Advice::bad(
            "appendonly",
            "it is `no`: what was acknowledged since the last snapshot is gone when the server dies",
            "CONFIG SET appendonly yes, then CONFIG REWRITE; or `appendonly yes` in redis.conf",
        );
    }
    match said.setting("appendfsync") {
        "always" if said.is("no-appendfsync-on-rewrite", "yes") => Advice::note(
            "appendfsync",
            "it is `always`, but nothing is flushed while the file is rewritten",
            "CONFIG SET no-appendfsync-on-rewrite no",
        ),
        "always" => Advice::good("appendfsync", "`always`: flushed before it is acknowledged"),
        "everysec" => Advice::note(
            "appendfsync",
            "it is `everysec`: a killed server loses nothing, a power cut the last second or so",
            "CONFIG SET appendfsync always, where that second counts; publishing in batches or from \
             many tasks shares the flushes",
        ),
        other => Advice::bad(
            "appendfsync",
            format!(
                "it is `{other}`: a power cut loses whatever the system had not written yet, up to \
                     half a minute"
            ),
            "CONFIG SET appendfsync always (or everysec)",
        ),
    }
}

/// What happens when the memory is full.
fn memory(said: &Said) -> Advice {
    let (policy, bound) = (said.setting("maxmemory-policy"), said.setting("maxmemory"));
    let bounded = bound != "0";
    match policy {
        "noeviction" if bounded => Advice::good(
            "maxmemory",
            format!("{bound} bytes and `noeviction`: publishers get Full, nothing is thrown away"),
        ),
        "noeviction" => Advice::note(
            "maxmemory",
            "no bound: the server grows until the system ends it",
            "CONFIG SET maxmemory to what the machine can spare, or `max_bytes` in the URL, so that \
             publishers get Full before that",
        ),
        // Nothing of ours has a time to live.
        policy if policy.starts_with("volatile-") => Advice::note(
            "maxmemory-policy",
            format!(
                "`{policy}` throws away keys with a time to live: none of ours, but others' first"
            ),
            "CONFIG SET maxmemory-policy noeviction, where nothing else lives on this server",
        ),
        policy => Advice::bad(
            "maxmemory-policy",
            format!(
                "`{policy}` throws away events and subscriptions when the memory is full{}",
                if bounded {
                    ""
                } else {
                    "; there is no bound now"
                }
            ),
            "CONFIG SET maxmemory-policy noeviction",
        ),
    }
}

/// Whether what is written arrives on the disk.
fn writing(said: &Said) -> Option<Advice> {
    let failed = [
        "aof_last_write_status",
        "aof_last_bgrewrite_status",
        "rdb_last_bgsave_status",
    ];
    let failed = failed.into_iter().find(|name| said.info(name) == "err")?;
    Some(Advice::bad(
        "writing",
        format!("{failed} is `err`: the server could not write its files the last time"),
        "look at the server's log, its disk and the rights on its directory",
    ))
}

/// Whether a failover loses what was acknowledged.
fn replicas(said: &Said, waited_for: usize) -> Option<Advice> {
    let replicas: usize = said.info("connected_slaves").parse().unwrap_or(0);
    if waited_for > replicas {
        return Some(Advice::bad(
            "replicas",
            format!(
                "{replicas} are connected and the URL waits for {waited_for}: every publish is Unknown"
            ),
            "bring the replicas back, or lower `wait_replicas`",
        ));
    }
    if replicas == 0 {
        return None;
    }
    if waited_for == 0 {
        return Some(Advice::note(
            "replicas",
            format!(
                "{replicas} are connected and none is waited for: one that takes over may lack what \
                     was acknowledged last"
            ),
            "`wait_replicas=1` in the URL, where one may take over",
        ));
    }
    if said.is("min-replicas-to-write", "0") {
        return Some(Advice::note(
            "min-replicas-to-write",
            "it is 0: a master that is cut off goes on taking what it will lose",
            "CONFIG SET min-replicas-to-write 1",
        ));
    }
    Some(Advice::good(
        "replicas",
        format!("{waited_for} of {replicas} have an event before it is acknowledged"),
    ))
}

#[cfg(test)]
mod tests {
    use fanfare_core::advice::Weight;

    use super::*;

    fn said(settings: &[(&str, &str)], info: &[(&str, &str)]) -> Said {
        let owned = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            pairs.collect::<HashMap<String, String>>()
        };
        Said {
            settings: Some(owned(settings)),
            info: owned(info),
        }
    }

    #[test]
    fn a_bound_without_eviction_is_good_and_eviction_of_everything_is_not() {
        let of = |policy, bound| {
            let settings = [("maxmemory-policy", policy), ("maxmemory", bound)];
            memory(&said(&settings, &[])).weight
        };
        assert_eq!(of("noeviction", "1000"), Weight::Good);
        assert_eq!(of("noeviction", "0"), Weight::Note);
        assert_eq!(of("volatile-lru", "1000"), Weight::Note);
        assert_eq!(of("allkeys-lru", "0"), Weight::Bad);
    }

    #[test]
    fn replicas_that_are_waited_for_and_not_there_are_bad() {
        let of = |there, least, waited| {
            let said = said(
                &[("min-replicas-to-write", least)],
                &[("connected_slaves", there)],
            );
            replicas(&said, waited).map(|advice| advice.weight)
        };
        assert_eq!(of("0", "0", 0), None);
        assert_eq!(of("0", "0", 1), Some(Weight::Bad));
        assert_eq!(of("2", "0", 0), Some(Weight::Note));
        assert_eq!(of("2", "0", 1), Some(Weight::Note));
        assert_eq!(of("2", "1", 1), Some(Weight::Good));
    }

    #[test]
    fn a_rewrite_that_stops_the_flushes_is_told() {
        let settings = [
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("no-appendfsync-on-rewrite", "yes"),
        ];
        let kept = kept(&said(&settings, &[]));
        assert_eq!(kept.weight, Weight::Note);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_bad() {
        let failed = writing(&said(&[], &[("aof_last_write_status", "err")]));
        assert_eq!(failed.unwrap().weight, Weight::Bad);
    }
}
