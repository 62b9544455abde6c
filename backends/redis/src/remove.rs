//! Removing whole streams, with all keys beside them. What is somebody else's is left: the names are
//! compared to the last byte.

use fanfare_core::error::Result;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult};

use crate::backend::RedisBackend;
use crate::config::RedisConfig;
use crate::connect::Wire;
use crate::error::map;

/// Keys that the server looks at in one step.
const STEP: usize = 1_000;

impl RedisBackend {
    /// Removes every stream whose name begins with `prefix`, with all that belongs to it, and those of
    /// [`RedisPubSub`](crate::RedisPubSub). Nobody may have one open: it would be made again. Looks at
    /// every key of the server, a thousand at a time; in a cluster at those of every master.
    pub async fn remove(config: RedisConfig, prefix: &str) -> Result<()> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            .set_response_timeout(Some(config.response_timeout));
        let (wire, _) = Wire::open(config).await?;
        for server in wire.servers().await.map_err(map)? {
            let connecting = server.get_multiplexed_async_connection_with_config(&settings);
            let mut connection = connecting.await.map_err(map)?;
            let removed = remove_at(&mut connection, prefix).await;
            removed.map_err(map)?;
        }
        Ok(())
    }
}

async fn remove_at(connection: &mut MultiplexedConnection, prefix: &str) -> RedisResult<()> {
    let (stream, beside) = (prefix.as_bytes(), format!("{{{prefix}"));
    let is_ours = |key: &[u8]| key.starts_with(stream) || key.starts_with(beside.as_bytes());
    let pattern = format!("*{}*", escaped(prefix));
    let mut cursor = String::from("0");
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern);
        scan.arg("COUNT").arg(STEP);
        let (next, keys): (String, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        let mut all = redis::pipe();
        for key in keys.iter().filter(|key| is_ours(key)) {
            // One by one: in a cluster they may be in several slots.
            all.cmd("UNLINK").arg(key).ignore();
        }
        if all.cmd_iter().next().is_some() {
            all.query_async::<()>(connection).await?;
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// As it stands for itself in a pattern of Redis.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_signs_of_patterns_means_itself() {
        assert_eq!(escaped("a*[b]?"), "a\\*\\[b\\]\\?");
        assert_eq!(escaped("orders:{1}"), "orders:{1}");
    }
}
