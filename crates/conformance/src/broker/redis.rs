//! Several redis-servers that belong together: a cluster, and a master and its replica that sentinels
//! watch. They are put together by commands over a plain socket; not a client for anything else.

mod cluster;
mod sentinels;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fanfare_core::clock::Clock;

pub use cluster::RedisCluster;
pub use sentinels::RedisSentinels;

/// How long one command may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long servers may take to agree.
const AGREE_LIMIT: Duration = Duration::from_secs(30);
/// How often they are asked.
const AGREE_POLL: Duration = Duration::from_millis(50);

/// Runs a command; answers its texts and numbers one after the other, whatever they are nested in.
fn command(server: SocketAddr, words: &[&str]) -> io::Result<Vec<String>> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut request = Vec::new();
    write!(request, "*{}\r\n", words.len())?;
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len())?;
    }
    stream.write_all(&request)?;
    let mut texts = Vec::new();
    read(&mut BufReader::new(stream), &mut texts)?;
    Ok(texts)
}

/// Reads one value with all that is in it.
fn read(from: &mut impl BufRead, texts: &mut Vec<String>) -> io::Result<()> {
    let mut values = 1;
    while values > 0 {
        values -= 1;
        let mut line = String::new();
        from.read_line(&mut line)?;
        let line = line.trim_end();
        let told = line.get(1..).unwrap_or_default();
        let number = || told.parse::<i64>().map_err(io::Error::other);
        match line.get(..1) {
            Some("+" | ":") => texts.push(told.to_owned()),
            Some("*") => values += number()?.max(0),
            Some("$") if told == "-1" => {}
            Some("$") => {
                let mut text = vec![0; usize::try_from(number()?).map_err(io::Error::other)?];
                from.read_exact(&mut text)?;
                from.read_exact(&mut [0; 2])?;
                texts.push(String::from_utf8_lossy(&text).into_owned());
            }
            _ => return Err(io::Error::other(format!("redis answered: {line}"))),
        }
    }
    Ok(())
}

/// Waits until it holds. A server that does not answer does not agree.
async fn agree(what: &str, holds: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    let clock = Clock::system();
    let until = clock.now() + AGREE_LIMIT;
    while clock.now() < until {
        if holds().unwrap_or(false) {
            return Ok(());
        }
        clock.sleep(AGREE_POLL).await;
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("redis took too long: {what}"),
    ))
}

/// Whether it is a replica that has what its master has.
fn is_replica_in_step(server: SocketAddr) -> io::Result<bool> {
    let role = command(server, &["ROLE"])?;
    Ok(role.first().is_some_and(|role| role == "slave")
        && role.get(3).is_some_and(|state| state == "connected"))
}
