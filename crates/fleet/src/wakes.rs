//! Who waits in this process for other news of a subscription than new events. How news comes from
//! elsewhere is the engine's.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits, by subscription. Whoever drops what he was given waits no more.
#[derive(Debug, Default)]
pub struct Wakes(Mutex<BTreeMap<String, Weak<Notify>>>);

impl Wakes {
    /// Notified whenever [`Wakes::wake`] is called for this subscription.
    pub fn of(&self, name: &str) -> Arc<Notify> {
        let mut waiting = self.0.lock();
        waiting.retain(|_, notify| notify.strong_count() > 0);
        if let Some(there) = waiting.get(name).and_then(Weak::upgrade) {
            return there;
        }
        let notify = Arc::new(Notify::new());
        waiting.insert(name.to_owned(), Arc::downgrade(&notify));
        notify
    }

    /// Wakes who waits for this subscription, or all.
    pub fn wake(&self, name: Option<&str>) {
        let waiting = self.0.lock();
        let chosen = waiting
            .iter()
            .filter(|(known, _)| name.is_none_or(|name| name == *known));
        for notify in chosen.filter_map(|(_, notify)| notify.upgrade()) {
            notify.notify_waiters();
        }
    }

    /// Whether anybody waits for anything.
    pub fn any(&self) -> bool {
        let waiting = self.0.lock();
        waiting.values().any(|notify| notify.strong_count() > 0)
    }
}
