//! What the server's version and settings mean for what is kept there, and what to do about it. Nothing
//! is changed. Most settings RabbitMQ tells to nobody over AMQP; those are told as what to look for.

use fanfare_core::advice::Advice;
use fanfare_core::error::{Error, ErrorKind, Result};
use lapin::uri::{AMQPScheme, AMQPUri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::connect::Line;
use crate::error;

/// The first version whose quorum queues can hand a retry back without losing it.
const OLDEST: (u32, u32) = (3, 10);
/// What a client says first.
const HELLO: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Type, channel and size, before what a frame holds.
const HEAD: usize = 7;
/// The most that a server may answer to it.
const MAX_GREETING: usize = 64 << 10;

impl Line {
    /// Everything there is to say about this server.
    pub(crate) async fn advice(&self) -> Vec<Advice> {
        let mut all = vec![match self.version().await {
            Ok(found) => version(&found),
            Err(error) => Advice::note(
                "version",
                format!("not read: {error}"),
                "`rabbitmqctl version`: 3.10 or later",
            ),
        }];
        if self.now().is_some_and(|live| live.blocked()) {
            all.push(Advice::bad(
                "alarm",
                "the server is low on memory or disk and takes no events",
                "`rabbitmqctl list_alarms`, then more room, or `vm_memory_high_watermark` and `disk_free_limit`",
            ));
        }
        all.push(Advice::note(
            "power",
            "confirmed once a majority of the servers has it; whether they flushed it first is a setting \
             that RabbitMQ does not tell",
            "flushing is the default: leave `wal_write_strategy` of `ra` out of advanced.config, or have \
             three servers that do not share their power",
        ));
        all.push(Advice::note(
            "consumer_timeout",
            "an event that is held longer, 30 minutes by default, closes the channel: everything that was \
             prefetched comes again",
            "`consumer_timeout` in rabbitmq.conf above the longest that a handler takes",
        ));
        all
    }

    /// Refuses a RabbitMQ that is too old before anything is made there: it may take a queue for one of
    /// another kind without a word. What does not tell is taken as it is.
    pub(crate) async fn check_age(&self) -> Result<()> {
        let greeting = self.greeting(self.place()?).await.unwrap_or_default();
        let found = text(&greeting, "version").filter(|found| is_old(found));
        let product = text(&greeting, "product");
        match found.filter(|_| product.as_deref() == Some("RabbitMQ")) {
            None => Ok(()),
            Some(found) => {
                let (major, minor) = OLDEST;
                let text =
                    format!("RabbitMQ {found} is too old: {major}.{minor} or later is needed");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        }
    }

    /// As the server says of itself when somebody connects; the client library keeps that for itself.
    async fn version(&self) -> Result<String> {
        let greeting = self.greeting(self.place()?).await?;
        let silent = || Error::new(ErrorKind::Unsupported, "the server does not tell");
        text(&greeting, "version").ok_or_else(silent)
    }

    async fn greeting(&self, place: AMQPUri) -> Result<Vec<u8>> {
        tokio::select! {
            greeting = greeting(place) => greeting,
            () = self.config.clock.sleep(self.config.connect_timeout) => Err(error::silent()),
        }
    }
}

/// All that a server says before anybody logs in.
async fn greeting(uri: AMQPUri) -> Result<Vec<u8>> {
    if uri.scheme == AMQPScheme::AMQPS {
        let text = "the server tells it over plain connections only";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let broken = |e| Error::new(ErrorKind::Unavailable, "RabbitMQ is not there").because(e);
    let place = (uri.authority.host.as_str(), uri.authority.port);
    let mut line = TcpStream::connect(place).await.map_err(broken)?;
    line.write_all(HELLO).await.map_err(broken)?;
    let mut head = [0; HEAD];
    line.read_exact(&mut head).await.map_err(broken)?;
    let [.., a, b, c, d] = head;
    let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let mut body = vec![0; size.min(MAX_GREETING)];
    line.read_exact(&mut body).await.map_err(broken)?;
    Ok(body)
}

/// A text in a table of AMQP: the length of its name, the name, `S`, the length of the text, the text.
fn text(table: &[u8], name: &str) -> Option<String> {
    let mut field = vec![u8::try_from(name.len()).ok()?];
    field.extend(name.as_bytes());
    field.push(b'S');
    let at = table.windows(field.len()).position(|some| some == field)?;
    let (length, rest) = table.get(at + field.len()..)?.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    String::from_utf8(rest.get(..length)?.to_vec()).ok()
}

fn version(found: &str) -> Advice {
    let text = format!("RabbitMQ {found}");
    if is_old(found) {
        let text = format!("{text}: its queues may lose what waits for a retry");
        return Advice::bad("version", text, "RabbitMQ 3.10 or later");
    }
    Advice::good("version", text)
}

fn is_old(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST
}

#[cfg(test)]
mod tests {
    use fanfare_core::advice::Weight;

    use super::*;

    #[test]
    fn a_version_that_may_lose_retries_is_told() {
        for (found, weight) in [
            ("3.9.29", Weight::Bad),
            ("3.10.8", Weight::Good),
            ("4.1.0-rc.1", Weight::Good),
            ("development", Weight::Bad),
        ] {
            assert_eq!(version(found).weight, weight, "{found}");
        }
    }

    #[test]
    fn what_a_server_says_of_itself_is_found_or_not() {
        let table = b"\x08platformS\0\0\0\x03OTP\x07versionS\0\0\0\x063.10.8";
        assert_eq!(text(table, "version").as_deref(), Some("3.10.8"));
        assert_eq!(text(table, "product"), None);
        assert_eq!(text(&table[..table.len() - 1], "version"), None);
    }
}
