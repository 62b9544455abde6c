//! Servers with settings of their own: users who may not, queues that are full, alarms, encryption; and
//! what other services have declared there. The promises that all backends share are the conformance
//! suite's.

#[cfg(test)]
mod server {
    mod deleted;
    pub(super) mod own;
    mod refused;
    mod tls;
    mod wire;
}
