//! What becomes of the connection while something waits: it is made, it breaks, or the server says
//! that we may not do what we just did. The server never says it to who asked.

use std::collections::VecDeque;

use async_nats::{Event, ServerError};
use fanfare_core::error::{Error, ErrorKind};
use tokio::sync::watch;

use super::Failed;

/// The most refusals that are kept for who may wait because of them.
const REFUSALS: usize = 32;
/// How the server begins to say what we may not do. Behind it is the subject, in quotes.
const MAY_NOT_SEND: &str = "Permissions Violation for Publish to ";
const MAY_NOT_HEAR: &str = "Permissions Violation for Subscription to ";
/// How the subjects begin on which answers come.
const INBOX: &str = "\"_INBOX.";

/// What happened so far.
#[derive(Debug, Default)]
struct Story {
    /// How often the connection broke.
    breaks: u64,
    /// How often a message came that nobody had room for.
    slow: u64,
    /// What the server refused since it was made.
    refusals: VecDeque<String>,
}

/// The story from some moment on.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    story: watch::Receiver<Story>,
    breaks: u64,
    slow: u64,
}

/// Who tells it.
#[derive(Debug)]
pub(super) struct Told(watch::Sender<Story>);

impl Told {
    pub(super) fn tell(&self, event: &Event) {
        tracing::debug!(%event, "nats");
        self.0.send_if_modified(|story| {
            match event {
                Event::Connected => story.refusals.clear(),
                Event::Disconnected => story.breaks += 1,
                Event::SlowConsumer(_) => story.slow += 1,
                Event::ServerError(ServerError::Other(refusal)) => {
                    tracing::warn!(%refusal, "nats refuses something");
                    story.refusals.push_back(refusal.clone());
                    if story.refusals.len() > REFUSALS {
                        story.refusals.pop_front();
                    }
                }
                _ => return false,
            }
            true
        });
    }
}

impl Line {
    pub(super) fn new() -> (Self, Told) {
        let (told, story) = watch::channel(Story::default());
        let line = Self {
            story,
            breaks: 0,
            slow: 0,
        };
        (line, Told(told))
    }

    pub(super) fn since_now(&self) -> Self {
        let mut story = self.story.clone();
        let (breaks, slow) = {
            let story = story.borrow_and_update();
            (story.breaks, story.slow)
        };
        Self {
            story,
            breaks,
            slow,
        }
    }

    /// Waits until something happens.
    pub(crate) async fn changed(&mut self) {
        if self.story.changed().await.is_err() {
            // The client is gone: who waits for it ends by itself.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the connection breaks.
    pub(crate) async fn broken(&mut self) {
        while self.story.borrow_and_update().breaks == self.breaks {
            self.changed().await;
        }
    }

    /// Whether messages to us may be gone since this was asked last, and why.
    pub(crate) fn missed(&mut self) -> Option<&'static str> {
        let (breaks, slow) = {
            let story = self.story.borrow_and_update();
            (story.breaks, story.slow)
        };
        let broke = std::mem::replace(&mut self.breaks, breaks) != breaks;
        let slow = std::mem::replace(&mut self.slow, slow) != slow;
        match (broke, slow) {
            (true, _) => Some("the connection broke"),
            (false, true) => Some("they came faster than this process takes them"),
            (false, false) => None,
        }
    }

    /// Waits until it is sure that nothing comes back from this subject.
    pub(crate) async fn fails(&mut self, subject: &str) -> Failed {
        loop {
            self.changed().await;
            let story = self.story.borrow_and_update();
            if story.breaks != self.breaks {
                return Failed::Broken;
            }
            let refused = story.refusals.iter().rev();
            let mut refused = refused.filter(|refusal| concerns(refusal, subject));
            if let Some(refusal) = refused.next() {
                let message = "the nats user may not do that: give it the permission";
                let error = Error::new(ErrorKind::Forbidden, message);
                return Failed::NotSent(error.because(refusal.clone()));
            }
        }
    }
}

/// Whether who sent something to this subject, or wants to hear it, waits in vain.
fn concerns(refusal: &str, subject: &str) -> bool {
    let heard = refusal.strip_prefix(MAY_NOT_HEAR);
    let named = heard.or_else(|| refusal.strip_prefix(MAY_NOT_SEND));
    let deaf = heard.is_some_and(|to| to.starts_with(INBOX));
    deaf || named.is_some_and(|to| to.trim_matches('"') == subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_reaches_who_waits_because_of_it_and_nobody_else() {
        let (line, told) = Line::new();
        let refuse = |text: &str| {
            told.tell(&Event::ServerError(ServerError::Other(text.into())));
        };
        let mut waiting = line.since_now();
        refuse("Permissions Violation for Publish to \"other.subject\"");
        let mut fails = std::pin::pin!(waiting.fails("my.subject"));
        assert!(futures::poll!(fails.as_mut()).is_pending());
        refuse("Permissions Violation for Publish to \"my.subject\"");
        let Failed::NotSent(error) = fails.await else {
            panic!("it was not sent");
        };
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        let mut waiting = line.since_now();
        refuse("Permissions Violation for Subscription to \"_INBOX.a.*\"");
        assert!(matches!(waiting.fails("any").await, Failed::NotSent(_)));
        let mut waiting = line.since_now();
        told.tell(&Event::Disconnected);
        assert!(matches!(waiting.fails("any").await, Failed::Broken));
    }
}
