//! One member of a subscription: receive, settle, extend.

use std::time::Duration;

use async_trait::async_trait;

use crate::delivery::{Delivery, Receipt, Settled, Settlement};
use crate::error::Result;

/// What dies together with a member, and therefore how its crash is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// The handlers run in this process: its death ends the leases, and what ran then comes back
    /// alone.
    Embedded,
    /// The handlers run elsewhere, behind HTTP: leases outlive this process and end by time.
    External,
}

/// Who consumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Shown to operators.
    pub name: String,
    /// See [`MemberKind`].
    pub kind: MemberKind,
}

/// A member's access to its subscription. All methods may be called at the same time.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// MUST wait up to `wait` for the first delivery and answer at most `max`, leased to this
    /// member; an empty answer is normal. A delivery that was running when its member died MUST
    /// come alone, with its attempt counted durably before it is handed out, and
    /// an embedded member MUST NOT receive more until it is settled. Dropping the future MUST NOT
    /// strand a delivery.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>>;

    /// MUST answer in order, after what counted is as durable as a publish. Late and repeated
    /// settlements change nothing.
    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>>;

    /// MUST make each lease end `lease` from now, where it is still held.
    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>>;

    /// MUST release every delivery that this member holds, without counting an attempt, and end an
    /// ephemeral subscription. Calling it again is fine. A member that is dropped without closing
    /// has died: its leases MUST end by time, and what it held comes back as after any death.
    async fn close(&self) -> Result<()>;
}
