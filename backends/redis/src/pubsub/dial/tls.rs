//! TLS over a socket of ours, as the client does it over its own: rustls with ring, and the same
//! certificates.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::RedisConfig;

pub(super) async fn connect(
    config: &RedisConfig,
    host: &str,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder().with_root_certificates(roots(config)?);
    let client = match &config.tls_identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
            let built = builder.with_client_auth_cert(certificates(certificate)?, key);
            built.map_err(io::Error::other)?
        }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(client))
        .connect(name, stream)
        .await
}

fn roots(config: &RedisConfig) -> io::Result<RootCertStore> {
    let trusted = match &config.tls_ca {
        Some(file) => certificates(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    // The system may hold some that rustls does not know.
    roots.add_parsable_certificates(trusted);
    Ok(roots)
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).map_err(io::Error::other)?;
    read.collect::<Result<_, _>>().map_err(io::Error::other)
}
