//! A keep-alive HTTP/1.1 connection that knows, when the other side dies, whether the request had
//! left whole and when. Only what our own server answers: JSON with a length.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::chance;

/// A server that is silent for so long is as good as dead.
const SILENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Answer {
    /// 2xx.
    pub(super) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why nothing came back.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server never saw the whole request.
    NotSent,
    /// It left whole at `sent` (microseconds since 1970), and its outcome is not known.
    NoAnswer { sent: u64 },
}

/// One connection.
#[derive(Debug)]
pub(super) struct Http {
    address: String,
    stream: BufReader<TcpStream>,
}

impl Http {
    pub(super) fn connect(address: &str) -> std::io::Result<Self> {
        Self::connect_for(address, SILENCE)
    }

    /// To ask for what takes the longer the more there is.
    pub(super) fn connect_for(address: &str, patience: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            address: address.into(),
            stream: BufReader::new(stream),
        })
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.call("GET", path, "application/json", "")
    }

    /// Sends `body` and waits for the answer.
    pub(super) fn call(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Result<Answer, Failure> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let written = self.stream.get_mut().write_all(request.as_bytes());
        written.map_err(|_| Failure::NotSent)?;
        let sent = chance::now();
        self.answer().ok_or(Failure::NoAnswer { sent })
    }

    /// None when the connection broke, or what came is not an answer.
    fn answer(&mut self) -> Option<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1)?.parse().ok()?;
        let mut length = 0;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(given) = line.strip_prefix("content-length:") {
                length = given.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Some(Answer { status, body })
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }
}
