//! Encryption by rustls with ring, and whose certificates it believes. There is no encryption that
//! believes every server.

use std::path::Path;
use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Believes the certificates of the file, or those that the system trusts.
pub(super) fn connector(ca: Option<&Path>) -> Result<MakeRustlsConnect> {
    // Whatever else the process has chosen or built in.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Error::new(ErrorKind::Internal, "no TLS").because(e))?;
    let builder = builder.with_root_certificates(trusted(ca)?);
    Ok(MakeRustlsConnect::new(builder.with_no_client_auth()))
}

fn trusted(ca: Option<&Path>) -> Result<RootCertStore> {
    let certificates = match ca {
        Some(file) => read(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    // There may be some that rustls does not know.
    let (known, _) = roots.add_parsable_certificates(certificates);
    if known == 0 {
        let whose = ca.map_or("the system".into(), |file| file.display().to_string());
        let text = format!("{whose} has no certificate to trust");
        return Err(Error::invalid("/backend", text));
    }
    Ok(roots)
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|error| {
        let text = format!("cannot read certificates of {}", file.display());
        Error::invalid("/backend", text).because(error)
    })
}
