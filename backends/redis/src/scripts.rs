//! The Lua scripts: what must happen at once happens in the server. Each begins with
//! `common.lua`; those that touch leases with `lease.lua` too.

use std::sync::LazyLock;

/// A script and its hash.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }

    pub(crate) fn text(&self) -> &'static str {
        self.text
    }

    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }
}

macro_rules! script {
    ($name:ident: $($file:literal),+) => {
        pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/common.lua"),
                $(include_str!(concat!("scripts/", $file, ".lua"))),+
            ))
        });
    };
}

script!(PUBLISH: "loss", "append", "publish");
script!(ENTRIES: "loss", "append", "entries");
script!(CLAIM: "lease", "group", "claim");
script!(SETTLE: "lease", "group", "settle");
script!(BURY: "lease", "group", "bury");
script!(EXTEND: "lease", "extend");
script!(RELEASE: "lease", "release");
script!(PUT: "lease", "group", "put");
script!(PATTERNS: "lease", "patterns");
script!(PAUSE: "lease", "pause");
script!(ALIVE: "lease", "alive");
script!(SEEK: "lease", "group", "forget", "seek");
script!(DELETE: "lease", "group", "forget", "delete");
script!(SNAPSHOT: "lease", "group", "snapshot");
script!(REDRIVE: "lease", "group", "redrive");
script!(DISCARD: "lease", "discard");
script!(KEEP: "lease", "group", "keep");
script!(CHECK: "loss", "check");
script!(MEND: "lease", "mend");
script!(REPLACE: "replace");
script!(STATE: "state");
script!(LOW: "lease", "low");
script!(TRIM: "lease", "trim");
