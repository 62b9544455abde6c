//! Group commit, as plain as it gets: callers hand their event to one thread, which writes what has
//! gathered while the last flush ran and then answers everyone.

use fanfare::core::event::Event;
use tokio::sync::{mpsc, oneshot};

use crate::Outcome;

/// The most events that wait for the writer.
const WAITING: usize = 4_096;
/// The most events in one commit.
const COMMIT: usize = 1_024;

/// An event and who waits for it.
pub(crate) type Job = (Event, oneshot::Sender<bool>);

/// The callers' side.
#[derive(Clone)]
pub(crate) struct Group(mpsc::Sender<Job>);

impl Group {
    /// Starts the writer; it ends when the last caller is gone.
    pub(crate) fn start(mut commit: impl FnMut(&[Job]) -> Outcome<()> + Send + 'static) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Job>(WAITING);
        std::thread::spawn(move || {
            let mut gathered = Vec::with_capacity(COMMIT);
            while receiver.blocking_recv_many(&mut gathered, COMMIT) > 0 {
                let stored = commit(&gathered).is_ok();
                for (_, caller) in gathered.drain(..) {
                    // A caller that went away does not mind.
                    let _ = caller.send(stored);
                }
            }
        });
        Self(sender)
    }

    /// Comes back when the event is durable.
    pub(crate) async fn publish(&self, event: Event) -> Outcome<()> {
        let (caller, answer) = oneshot::channel();
        self.0.send((event, caller)).await?;
        if answer.await? {
            Ok(())
        } else {
            Err("the commit failed".into())
        }
    }
}
