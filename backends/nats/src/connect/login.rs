//! Where the servers are and who we are there, both out of the URL: the client itself takes neither
//! several servers nor credentials from one.

use async_nats::{ConnectOptions, ServerAddr};
use fanfare_core::error::{Error, Result};

/// The servers of `nats://USER:PASSWORD@HOST:PORT,HOST:PORT` or `nats://TOKEN@HOST`, and options with
/// those credentials. They are taken out of the addresses, which the client writes to its log.
pub(super) fn log_in(
    options: ConnectOptions,
    url: &str,
) -> Result<(ConnectOptions, Vec<ServerAddr>)> {
    let scheme = url.split_once("://").map_or("nats", |(scheme, _)| scheme);
    let mut servers = Vec::new();
    let mut credentials = None;
    for server in url.split(',') {
        let (address, own) = match server.split_once("://") {
            Some(_) => read(server)?,
            None => read(&format!("{scheme}://{server}"))?,
        };
        servers.push(address);
        credentials = credentials.or(own);
    }
    let options = match credentials {
        None => options,
        Some((user, Some(password))) => options.user_and_password(user, password),
        Some((token, None)) => options.token(token),
    };
    Ok((options, servers))
}

type Credentials = (String, Option<String>);

fn read(server: &str) -> Result<(ServerAddr, Option<Credentials>)> {
    // The text may hold a password: it is not shown.
    let wrong = || Error::invalid("/url", "not a nats URL such as nats://HOST:4222");
    let address: ServerAddr = server.parse().map_err(|_| wrong())?;
    let user = address.username().map(decoded);
    let credentials = user.map(|user| (user, address.password().map(decoded)));
    let mut url = address.into_inner();
    url.set_username("").map_err(|()| wrong())?;
    url.set_password(None).map_err(|()| wrong())?;
    let address = ServerAddr::from_url(url).map_err(|_| wrong())?;
    Ok((address, credentials))
}

/// With `%40` as `@`; what is no such sign stays as it is.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.first_chunk::<2>().filter(|_| *first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            out.push(byte);
            rest = behind.get(2..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = behind;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<String> {
        let (_, servers) = log_in(ConnectOptions::new(), url).unwrap();
        let hosts = servers.iter().map(ServerAddr::as_url_str);
        hosts.map(str::to_owned).collect()
    }

    #[test]
    fn credentials_are_read_and_stay_out_of_the_addresses() {
        let (address, credentials) = read("nats://ada:p%40ss%2C@host:4222").unwrap();
        assert_eq!(credentials, Some(("ada".into(), Some("p@ss,".into()))));
        assert!(!address.as_url_str().contains("ada"));
        let (_, credentials) = read("nats://s3cret@host").unwrap();
        assert_eq!(credentials, Some(("s3cret".into(), None)));
        assert_eq!(read("nats://host").unwrap().1, None);
        assert_eq!(decoded("100%"), "100%");
    }

    #[test]
    fn several_servers_share_what_the_first_one_says() {
        let hosts = hosts("tls://ada:x@one:1,two:2");
        assert_eq!(hosts, ["tls://one:1", "tls://two:2"]);
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_shown() {
        for url in [
            "http://ada:hunter2@host",
            "nats://ada:hun/ter2@x y",
            "nats://",
        ] {
            let refused = log_in(ConnectOptions::new(), url).unwrap_err();
            assert!(!format!("{refused:?}").contains("ter2"), "{refused:?}");
        }
    }
}
