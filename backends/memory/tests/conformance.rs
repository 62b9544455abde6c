//! The published suite against the in-memory backend.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_conformance::Target;
use fanfare_core::Result;
use fanfare_core::backend::Backend;
use fanfare_memory::{MemoryBackend, MemoryConfig};

#[derive(Debug)]
struct Memory;

#[async_trait]
impl Target for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    async fn open(&self, _stream: &str) -> Result<Arc<dyn Backend>> {
        Ok(MemoryBackend::open(MemoryConfig::default()))
    }

    async fn open_bounded(&self, _stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        let config = MemoryConfig {
            max_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            ..MemoryConfig::default()
        };
        Some(Ok(MemoryBackend::open(config)))
    }
}

fanfare_conformance::suite!(Memory);
