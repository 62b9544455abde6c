//! Shared values: one hash of values, one of their versions.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::state::{State, Versioned, check_key, check_value};
use redis::{FromRedisValue, Value};
use tokio::sync::watch;

use crate::connect::{Arguments, Wire};
use crate::error::{map, map_write, unexpected};
use crate::scripts;

/// The values of a stream, whatever carries its events.
#[derive(Debug)]
pub(crate) struct Values {
    wire: Arc<Wire>,
    closed: watch::Receiver<bool>,
}

impl Values {
    pub(crate) fn new(wire: Arc<Wire>, closed: watch::Receiver<bool>) -> Self {
        Self { wire, closed }
    }

    fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    /// Runs an operation whose outcome may stay unknown.
    async fn change(&self, arguments: &Arguments) -> Result<i64> {
        let answer = self.wire.try_script(&scripts::STATE, arguments).await;
        read(answer.map_err(map_write)?)
    }
}

fn read(value: Value) -> Result<i64> {
    i64::from_redis_value(value).map_err(|_| unexpected("a state operation"))
}

#[async_trait]
impl State for Values {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.check_open()?;
        check_key(key)?;
        let mut both = redis::pipe();
        both.atomic();
        both.cmd("HGET").arg(self.wire.key("v")).arg(key);
        both.cmd("HGET").arg(self.wire.key("vn")).arg(key);
        let (value, version): (Option<Vec<u8>>, Option<u64>) = self.wire.run_all(&both).await?;
        Ok(value.zip(version).map(|(value, version)| Versioned {
            value: Bytes::from(value),
            version,
        }))
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool> {
        self.check_open()?;
        check_key(key)?;
        check_value(&value)?;
        let arguments = Arguments::default()
            .text("put")
            .text(key)
            .bytes(value.to_vec());
        Ok(self.change(&arguments).await? > 0)
    }

    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        self.check_open()?;
        check_key(key)?;
        check_value(&value)?;
        let expected = expected
            .map(|version| version.to_string())
            .unwrap_or_default();
        let arguments = Arguments::default().text("cas").text(key).text(expected);
        let version = self.change(&arguments.bytes(value.to_vec())).await?;
        Ok(u64::try_from(version).ok().filter(|version| *version > 0))
    }

    async fn increment(&self, key: &str, by: i64) -> Result<i64> {
        self.check_open()?;
        check_key(key)?;
        let arguments = Arguments::default().text("add").text(key).number(by);
        match self.wire.try_script(&scripts::STATE, &arguments).await {
            Ok(sum) => read(sum),
            Err(error) if error.to_string().contains("is not an integer") => Err(Error::new(
                ErrorKind::Conflict,
                format!("the value of `{key}` is not a number"),
            )),
            Err(error) if error.to_string().contains("overflow") => Err(Error::new(
                ErrorKind::Conflict,
                format!("the value of `{key}` would overflow"),
            )),
            Err(error) => Err(map_write(error)),
        }
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        self.check_open()?;
        check_key(key)?;
        let arguments = Arguments::default().text("delete").text(key);
        let answer = self.wire.try_script(&scripts::STATE, &arguments).await;
        Ok(read(answer.map_err(map)?)? > 0)
    }
}
