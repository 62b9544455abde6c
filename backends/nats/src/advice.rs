//! What the server's version and the streams' settings mean for what is kept there, and what to do about
//! it. Nothing is changed.

use fanfare_core::advice::Advice;
use fanfare_core::capability::Known;

use crate::connect::Wire;
use crate::streams::Keeping;

/// The first version that can be told to flush before it acknowledges.
const FLUSHES: (u64, u64) = (2, 10);

impl Wire {
    /// Whether acknowledged events outlive a power cut.
    pub(crate) fn power_safe(&self) -> Known {
        power_safe(self.keeping())
    }

    /// Everything there is to say about this server.
    pub(crate) fn advice(&self) -> Vec<Advice> {
        let version = &self.client.server_info().version;
        let mut all = vec![Advice::good("version", format!("nats-server {version}"))];
        all.push(storage(self.keeping()));
        all.push(flushing(self.keeping(), self.version()));
        all
    }
}

/// The server acknowledges what the system has, not the disk, unless it is told otherwise; and it does
/// not tell what it was told. Several servers may or may not share their power.
fn power_safe(keeping: Keeping) -> Known {
    match keeping {
        Keeping {
            in_memory: true,
            replicas: 0..2,
        } => Known::No,
        _ => Known::Unknown,
    }
}

fn storage(keeping: Keeping) -> Advice {
    if keeping.in_memory {
        return Advice::bad(
            "storage",
            "a stream is in the memory of nats-server and gone with its process",
            "forward what it holds to another `stream`, which is made in files",
        );
    }
    Advice::good("storage", "in files: a killed server loses nothing")
}

fn flushing(keeping: Keeping, version: (u64, u64)) -> Advice {
    if keeping.replicas > 1 {
        let found = format!(
            "on {} servers: one that keeps its power is enough",
            keeping.replicas
        );
        return Advice::good("replicas", found);
    }
    if version < FLUSHES {
        return Advice::note(
            "power",
            "files are flushed every two minutes, after the acknowledgement: a power cut takes what \
             was written since",
            "nats-server 2.10 or later with `jetstream { sync_interval: always }`, or `replicas=3` in a \
             cluster",
        );
    }
    Advice::note(
        "power",
        "files are flushed every two minutes, after the acknowledgement, unless `sync_interval` says \
         otherwise, which the server does not tell",
        "jetstream { sync_interval: always }",
    )
}

#[cfg(test)]
mod tests {
    use fanfare_core::advice::Weight;

    use super::*;

    #[test]
    fn what_a_power_cut_takes_is_said_with_what_helps() {
        let kept = |in_memory, replicas| Keeping {
            in_memory,
            replicas,
        };
        assert_eq!(power_safe(kept(false, 1)), Known::Unknown);
        assert_eq!(power_safe(kept(true, 1)), Known::No);
        assert_eq!(storage(kept(true, 3)).weight, Weight::Bad);
        assert!(flushing(kept(false, 1), (2, 9)).todo.contains("2.10"));
        assert!(
            flushing(kept(false, 1), (2, 12))
                .todo
                .contains("sync_interval")
        );
        assert_eq!(flushing(kept(false, 3), (2, 9)).weight, Weight::Good);
    }
}
