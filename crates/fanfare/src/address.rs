//! Where a backend is: `sqlite:DIR`, `memory:`, `redis://user:password@host/?stream=NAME`. Split
//! here, understood in [`registry`](crate::registry). Whatever shows an address hides credentials.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use fanfare_core::{Error, Result};

/// The stream of a backend URL that names none.
pub const DEFAULT_STREAM: &str = "fanfare";

/// Parameters whose values are safe to show; every other one is hidden.
const PUBLIC_PARAMETERS: [&str; 17] = [
    "stream",
    "mode",
    "queue",
    "dead_letters",
    "max_events",
    "max_bytes",
    "retention",
    "wire",
    "subjects",
    "group",
    "consumer",
    "takeover",
    "wait_replicas",
    "pooler",
    "sslmode",
    "response_timeout",
    "publish_timeout",
];

/// A backend URL in its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    scheme: String,
    rest: String,
    parameters: Vec<(String, String)>,
}

impl Address {
    /// Splits `url`; neither the error nor anything printed later holds its credentials.
    pub fn parse(url: &str) -> Result<Self> {
        let Some((scheme, tail)) = url.split_once(':').filter(|(scheme, _)| is_scheme(scheme))
        else {
            let shown = hide_credentials(url);
            return Err(Error::invalid(
                "/backend",
                format!("`{shown}` is not a backend URL such as sqlite:./data or memory:"),
            ));
        };
        let (rest, query) = split_query(tail);
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if parameters.iter().any(|(known, _)| known == name) {
                return Err(Error::invalid(
                    "/backend",
                    format!("backend URL gives `{}` twice", name.escape_debug()),
                ));
            }
            parameters.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            rest: rest.to_owned(),
            parameters,
        })
    }

    /// `sqlite`, `memory`, `redis`, ...
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between the scheme and the parameters, `//` of an absolute file URL removed.
    pub fn path(&self) -> &str {
        match self.rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            _ => &self.rest,
        }
    }

    /// The same address with another path.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.rest = path.into();
        self
    }

    /// Host and port, where there is one server and it is named.
    pub fn host(&self) -> Option<(&str, Option<u16>)> {
        let (start, end) = self.authority()?;
        let authority = self.rest.get(start..end)?;
        if authority.is_empty() || authority.contains([',', '%']) {
            return None;
        }
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                Some((host.trim_matches(['[', ']']), Some(port.parse().ok()?)))
            }
            _ => Some((authority.trim_matches(['[', ']']), None)),
        }
    }

    /// The same address at another server.
    #[must_use]
    pub fn with_host(mut self, server: SocketAddr) -> Self {
        if let Some((start, end)) = self.authority() {
            self.rest.replace_range(start..end, &server.to_string());
        }
        self
    }

    /// The same address with this password, whatever characters it has, and the name that was there;
    /// an empty one changes nothing.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        let Some((host, _)) = self.authority().filter(|_| !password.is_empty()) else {
            return self;
        };
        let before = self
            .rest
            .get(2..host)
            .unwrap_or_default()
            .trim_end_matches('@');
        let name = before.split(':').next().unwrap_or_default();
        let credentials = format!("{name}:{}@", encode(password));
        self.rest.replace_range(2..host, &credentials);
        self
    }

    /// Where in the rest host and port stand, without credentials.
    fn authority(&self) -> Option<(usize, usize)> {
        let start = self.rest.strip_prefix("//").map(|_| 2)?;
        let start = self.rest.rfind('@').map_or(start, |at| at + 1);
        let length = self.rest.get(start..)?.find('/');
        Some((start, length.map_or(self.rest.len(), |at| start + at)))
    }

    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The same address with a parameter set.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: impl Into<String>) -> Self {
        self.take(name);
        self.parameters.push((name.to_owned(), value.into()));
        self
    }

    /// Takes a parameter out, so that [`Address::finish`] can name those nobody understood.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self
            .parameters
            .iter()
            .position(|(known, _)| known == name)?;
        Some(self.parameters.remove(at).1)
    }

    /// Takes a whole number out.
    pub fn take_number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            let detail = format!("`{name}` in a backend URL is a whole number");
            Error::invalid("/backend", detail)
        })
    }

    /// Takes the stream out, or the default one.
    pub fn take_stream(&mut self) -> Result<String> {
        let stream = self.take("stream").unwrap_or_else(|| DEFAULT_STREAM.into());
        let good = (1..=64).contains(&stream.len())
            && stream
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if good {
            return Ok(stream);
        }
        Err(Error::invalid(
            "/backend",
            "a stream name is 1 to 64 of A-Z a-z 0-9 _ and -",
        ))
    }

    /// Refuses parameters that were not taken.
    pub fn finish(self) -> Result<()> {
        let Some((name, _)) = self.parameters.first() else {
            return Ok(());
        };
        Err(Error::invalid(
            "/backend",
            format!(
                "a {}: URL has no parameter `{}`",
                self.scheme,
                name.escape_debug()
            ),
        ))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, hide_credentials(&self.rest))?;
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            let sign = if index == 0 { '?' } else { '&' };
            let public = PUBLIC_PARAMETERS.contains(&name.as_str());
            let value = if public { value.as_str() } else { "***" };
            write!(f, "{sign}{}={}", name.escape_debug(), value.escape_debug())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// Splits at the first `?` behind the credentials, which may hold one themselves.
fn split_query(tail: &str) -> (&str, &str) {
    let host = tail.rfind('@').unwrap_or(0);
    match tail.get(host..).and_then(|text| text.find('?')) {
        Some(at) => {
            let (rest, query) = tail.split_at(host + at);
            (rest, query.trim_start_matches('?'))
        }
        None => (tail, ""),
    }
}

/// Replaces everything up to the last `@` behind `//`: a password may itself hold `/`, `?` or `@`,
/// and hiding too much is the smaller harm.
fn hide_credentials(text: &str) -> String {
    let start = text.find("//").map_or(0, |at| at + 2);
    let (head, tail) = text.split_at(start);
    let shown = match tail.rsplit_once('@') {
        Some((_, host)) => format!("{head}***@{host}"),
        None => text.to_owned(),
    };
    shown.escape_debug().to_string()
}

/// Percent-encodes everything that means something in a URL, and more.
fn encode(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_appear() {
        for url in [
            "redis://ada:hunter2@localhost:6379/?stream=orders&token=hunter2",
            "redis://ada:hun/t?er2@hunter2@localhost",
            "redis+sentinel://ada:hunter2@one:26379,two/main/0?sentinel_password=hunter2",
            "://ada:hunter2@localhost",
        ] {
            let shown = match Address::parse(url) {
                Ok(address) => format!("{address} {address:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(!shown.contains("hun/t"), "{shown}");
        }
    }

    #[test]
    fn parts_are_found() {
        let mut address = Address::parse("sqlite:./data?stream=orders").unwrap();
        assert_eq!((address.scheme(), address.path()), ("sqlite", "./data"));
        assert_eq!(address.take_stream().unwrap(), "orders");
        address.clone().finish().unwrap();
        let other = address.with_path("/x").with_parameter("stream", "a");
        assert_eq!(other.to_string(), "sqlite:/x?stream=a");
        assert_eq!(Address::parse("sqlite:///var/x").unwrap().path(), "/var/x");
        assert_eq!(Address::parse("memory:").unwrap().path(), "");
    }

    #[test]
    fn the_server_is_found_and_another_put_in_its_place() {
        let other = SocketAddr::from(([127, 0, 0, 1], 9));
        for (url, host, port, at_other) in [
            (
                "redis://localhost",
                "localhost",
                None,
                "redis://127.0.0.1:9",
            ),
            (
                "nats://a:b@c@one:7/",
                "one",
                Some(7),
                "nats://a:b@c@127.0.0.1:9/",
            ),
            (
                "postgres://a@[::1]/db?stream=s",
                "::1",
                None,
                "postgres://a@127.0.0.1:9/db",
            ),
            (
                "postgres://[::1]:8/db",
                "::1",
                Some(8),
                "postgres://127.0.0.1:9/db",
            ),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.host(), Some((host, port)), "{url}");
            let moved = address.with_host(other);
            assert_eq!(format!("{}:{}", moved.scheme, moved.rest), at_other);
        }
        for none in [
            "redis:",
            "sqlite:./data",
            "nats://one,two",
            "postgres:///db",
        ] {
            assert_eq!(Address::parse(none).unwrap().host(), None, "{none}");
        }
    }

    #[test]
    fn any_password_fits_into_an_address() {
        for (url, with) in [
            ("redis://host:1/0", "redis://:p%40s%2Fs%3A@host:1/0"),
            ("redis://ada@host", "redis://ada:p%40s%2Fs%3A@host"),
            ("redis://ada:old@host", "redis://ada:p%40s%2Fs%3A@host"),
            ("memory:", "memory:"),
        ] {
            let address = Address::parse(url).unwrap().with_password("p@s/s:");
            assert_eq!(format!("{}:{}", address.scheme, address.rest), with);
            assert!(!address.to_string().contains("p%40"), "{address}");
        }
        let open = Address::parse("redis://host").unwrap().with_password("");
        assert_eq!(open.path(), "//host");
    }

    #[test]
    fn what_nobody_understands_is_refused() {
        let address = Address::parse("memory:?streem=orders").unwrap();
        let error = address.finish().unwrap_err().to_string();
        assert_eq!(error, "a memory: URL has no parameter `streem`");
        for bad in ["", "./data", ":x", "memory:?a=1&a=2"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        let mut odd = Address::parse("memory:?stream=a.b").unwrap();
        assert!(odd.take_stream().is_err());
    }
}
