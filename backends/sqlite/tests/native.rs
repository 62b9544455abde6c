//! What is particular to this backend: its files, its disk, its commits. The promises that all backends
//! share are the conformance suite's.

#[cfg(test)]
mod native {
    mod disk;
    mod failing;
    mod files;
    mod formats;
    mod full;
    mod keeping;
    mod restart;
    pub(super) mod stage;
}
