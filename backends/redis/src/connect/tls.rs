//! Clients, which for `rediss:` URLs speak TLS by rustls with ring, and believe the system's
//! certificates or those of a file.

use std::path::Path;

use fanfare_core::error::{Error, Result};
use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisResult, TlsCertificates};

use crate::config::RedisConfig;

/// Makes them.
pub(super) struct Clients {
    certificates: Option<TlsCertificates>,
}

impl Clients {
    pub(super) fn of(config: &RedisConfig) -> Result<Self> {
        if !config.url.starts_with("rediss") {
            return Ok(Self { certificates: None });
        }
        // Somebody may have chosen another one for the process: then that is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let identity = config.tls_identity.as_ref();
        let certificates = TlsCertificates {
            root_cert: config.tls_ca.as_deref().map(read).transpose()?,
            client_tls: match identity {
                Some((certificate, key)) => Some(ClientTlsConfig {
                    client_cert: read(certificate)?,
                    client_key: read(key)?,
                }),
                None => None,
            },
        };
        Ok(Self {
            certificates: Some(certificates),
        })
    }

    pub(super) fn make(&self, server: ConnectionInfo) -> RedisResult<Client> {
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(server, certificates.clone()),
            None => Client::open(server),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| {
        let text = format!("cannot read {}", file.display());
        Error::invalid("/backend", text).because(error)
    })
}
