//! What is done to a server or to its broker, by name, and which of it each backend has to bear.
//! How it is done stands where it is done.

use std::fmt;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9` of the one server that holds the data.
    Kill,
    /// The power of its disk, and then of itself.
    PowerCut,
    /// `kill -9` of the broker; it starts again on the same data.
    BrokerKill,
    /// `SIGSTOP` of the broker for a while: it holds its connections and answers nothing.
    Stop,
    /// Connections to the broker are reset, one or all.
    Cut,
    /// Connections to the broker go silent for good, one or all; new ones work.
    Blackhole,
    /// `kill -9` of one of two servers that share the subscriptions.
    ServerKill,
    /// Somebody deletes what the broker keeps of the subscriptions.
    GroupDeletion,
    /// Somebody deletes the stream.
    StreamDeletion,
}

impl Fault {
    /// What this backend has to bear; nothing where we do not know it.
    pub(super) fn of(backend: &str) -> &'static [Self] {
        match backend {
            "sqlite" => &[Self::Kill, Self::PowerCut],
            "memory" => &[Self::Kill],
            "redis" | "postgres" | "nats" => &[
                Self::BrokerKill,
                Self::Stop,
                Self::Cut,
                Self::Blackhole,
                Self::ServerKill,
                Self::GroupDeletion,
                Self::StreamDeletion,
            ],
            // What is kept of a subscription there is its queue, which is also its part of the stream.
            "amqp" => &[
                Self::BrokerKill,
                Self::Stop,
                Self::Cut,
                Self::Blackhole,
                Self::ServerKill,
                Self::StreamDeletion,
            ],
            _ => &[],
        }
    }

    /// Whether it takes away what a broker keeps, and no connection.
    pub(super) fn deletes(self) -> bool {
        matches!(self, Self::GroupDeletion | Self::StreamDeletion)
    }

    /// For options (with `--` before it) and file names.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kill | Self::BrokerKill => "kills",
            Self::PowerCut | Self::Cut => "cuts",
            Self::Stop => "stops",
            Self::Blackhole => "blackholes",
            Self::ServerKill => "server-kills",
            Self::GroupDeletion => "group-deletions",
            Self::StreamDeletion => "stream-deletions",
        }
    }

    /// How many of them go into one round, after which everything is settled and compared. Slow
    /// ones leave more behind.
    pub(super) fn round(self) -> u64 {
        match self {
            Self::Kill | Self::PowerCut => 100,
            Self::Cut | Self::ServerKill => 50,
            Self::BrokerKill
            | Self::Stop
            | Self::Blackhole
            | Self::GroupDeletion
            | Self::StreamDeletion => 10,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9",
            Self::PowerCut => "power cut",
            Self::BrokerKill => "kill -9 of the broker",
            Self::Stop => "SIGSTOP of the broker",
            Self::Cut => "connections reset",
            Self::Blackhole => "connections silent",
            Self::ServerKill => "kill -9 of one server of two",
            Self::GroupDeletion => "subscriptions deleted",
            Self::StreamDeletion => "stream deleted",
        })
    }
}
