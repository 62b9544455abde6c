//! The client, which for `rediss:` URLs speaks TLS by rustls with ring, and believes the system's
//! certificates or those of a file.

use std::path::Path;

use fanfare_core::error::{Error, Result};
use redis::{Client, ClientTlsConfig, TlsCertificates};

use crate::config::RedisConfig;
use crate::error::map;

pub(super) fn client(config: &RedisConfig) -> Result<Client> {
    if !config.url.starts_with("rediss:") {
        return Client::open(config.url.as_str()).map_err(map);
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
    Client::build_with_tls(config.url.as_str(), certificates).map_err(map)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| {
        let text = format!("cannot read {}", file.display());
        Error::invalid("/backend", text).because(error)
    })
}
