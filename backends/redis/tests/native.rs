//! What only this backend meets: servers that die, stop or refuse, streams that others write to or
//! delete. The promises that all backends share are the conformance suite's.

#[cfg(test)]
mod native {
    mod deaths;
    mod forms;
    mod group;
    mod loss;
    mod masters;
    mod pubsub;
    mod refusals;
    mod remove;
    pub(super) mod stage;
    mod stream;
    mod tls;
    mod wire;
}
