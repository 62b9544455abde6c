//! The line between one handle and its broker, to be broken at will. What breaks it is a
//! [`Proxy`](crate::broker::Proxy), or whatever a target has instead.

use std::fmt::Debug;
use std::sync::Arc;

use fanfare_core::backend::Backend;

use crate::broker::{Fault, Proxy};

/// A line that fails on command.
pub trait Line: Debug + Send + Sync {
    /// What happens to what passes from now on, on connections that are open too.
    fn set(&self, fault: Fault);

    /// Ends every connection: in order, or with a reset.
    fn end(&self, reset: bool);
}

impl Line for Proxy {
    fn set(&self, fault: Fault) {
        self.set(fault);
    }

    fn end(&self, reset: bool) {
        if reset { self.reset() } else { self.cut() }
    }
}

/// A handle, and the line that it depends on.
#[derive(Debug, Clone)]
pub struct Breakable {
    /// Gives up on an answer after a few seconds.
    pub backend: Arc<dyn Backend>,
    /// Between it and its broker; no other handle's.
    pub line: Arc<dyn Line>,
}
