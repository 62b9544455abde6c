//! Where the server is, and whose certificates are believed when it speaks TLS. Encryption is rustls with
//! ring; there is none that believes every server.

use std::path::Path;

use fanfare_core::error::{Error, ErrorKind, Result};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::config::AmqpConfig;

/// How often each side shows that it lives, in seconds, unless the URL says otherwise.
const HEARTBEAT: u16 = 10;
/// What a file of certificates has at least one of.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// The address in the URL, and what to believe there.
pub(super) fn place(config: &AmqpConfig) -> Result<(AMQPUri, OwnedTLSConfig)> {
    // The text may hold a password: it is not shown.
    let wrong = "not a RabbitMQ URL such as amqp://USER:PASSWORD@HOST:5672/%2f";
    let place = config.url.parse();
    let mut place: AMQPUri = place.map_err(|_| Error::invalid("/url", wrong))?;
    place.query.heartbeat.get_or_insert(HEARTBEAT);
    if let Some(host) = in_brackets(&config.url) {
        // The client takes `localhost` for an address of IPv6.
        host.clone_into(&mut place.authority.host);
    }
    let ca = config.tls_ca.as_deref();
    let believed = match place.scheme {
        AMQPScheme::AMQPS if !cfg!(feature = "tls") => {
            let text = "amqps: URLs need a build with the feature `tls`";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        AMQPScheme::AMQP if ca.is_some() => {
            let text = "certificates are for amqps: URLs";
            return Err(Error::invalid("/url", text));
        }
        _ => ca.map(read).transpose()?,
    };
    let tls = OwnedTLSConfig {
        identity: None,
        cert_chain: believed,
    };
    Ok((place, tls))
}

/// The host of a URL where it is an address of IPv6.
fn in_brackets(url: &str) -> Option<&str> {
    let (_, place) = url.split_once("://")?;
    let authority = place.split('/').next()?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    Some(host.strip_prefix('[')?.split_once(']')?.0)
}

fn read(file: &Path) -> Result<String> {
    let refused = |why: &str| {
        let text = format!("{}: {why}", file.display());
        Error::invalid("/url", text)
    };
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|e| refused("cannot be read").because(e))?;
    if !text.contains(CERTIFICATE) {
        return Err(refused("has no certificate to trust"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(url: &str) -> String {
        let (place, _) = place(&AmqpConfig::new(url, "orders")).unwrap();
        place.authority.host
    }

    #[test]
    fn an_address_of_ipv6_is_not_taken_for_localhost() {
        assert_eq!(host("amqp://ada:x@[fd00::1]:5672/%2f"), "fd00::1");
        assert_eq!(host("amqp://[::1]"), "::1");
        assert_eq!(host("amqp://ada:[x]@broker/[v]"), "broker");
        assert_eq!(host("amqp://127.0.0.1:1/"), "127.0.0.1");
    }
}
