//! What is particular to this backend: when an event may be read, transactions of others, poolers, a
//! server that dies, stops or refuses. The promises that all backends share are the conformance
//! suite's.

#[cfg(test)]
mod native {
    mod broken;
    mod followed;
    mod horizon;
    mod keeping;
    mod loss;
    mod pooler;
    mod publish;
    mod refused;
    mod sqlx;
    pub(super) mod stage;
    mod tls;
    mod writers;
}
