//! Saboteurs of shared values.

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::backend::Backend;
use fanfare_core::error::Result;
use fanfare_core::state::Versioned;

use super::sabotage::Sabotage;
use super::saboteurs;

saboteurs! {
    ReadsThenWrites: 23, "increments by reading, then writing" => [
        "state::a_thousand_concurrent_increments_are_all_counted",
    ];
    LastWriterWins: 23, "lets every first writer win" => [
        "state::of_many_first_writers_one_wins",
    ];
    IgnoresVersions: 23, "writes over whatever version is there" => [
        "state::compare_and_set_writes_only_over_the_version_it_names",
        "state::racing_compare_and_sets_lose_no_update",
    ];
    IncrementsText: 23, "takes a text for the number 0" => [
        "state::incrementing_what_is_no_number_is_refused",
    ];
    CutsValues: 23, "keeps the first 100 bytes of a value" => [
        "state::a_value_comes_back_as_it_was_put",
    ];
    NumbersVersionsByLength: 23, "takes a value's length for its version" => [
        "state::a_version_never_repeats",
    ];
    KeepsAnyValue: 6, "answers Ok to a value above the limit" => [
        "state::keys_and_values_are_bounded",
    ];
}

#[derive(Debug, Default)]
struct ReadsThenWrites;

#[async_trait]
impl Sabotage for ReadsThenWrites {
    async fn increment(&self, real: &dyn Backend, key: &str, by: i64) -> Result<i64> {
        let values = real.state();
        let now = values.get(key).await?;
        let number = now
            .as_ref()
            .and_then(|v| std::str::from_utf8(&v.value).ok()?.parse().ok());
        let sum = number.unwrap_or(0) + by;
        tokio::task::yield_now().await;
        let seen = values.get(key).await?.map(|v| v.version);
        values
            .compare_and_set(key, seen, sum.to_string().into())
            .await?;
        Ok(sum)
    }
}

/// One after the other: if all deleted before the first wrote, the others would lose as they should.
#[derive(Debug, Default)]
struct LastWriterWins(tokio::sync::Mutex<()>);

#[async_trait]
impl Sabotage for LastWriterWins {
    async fn put_if_absent(&self, real: &dyn Backend, key: &str, value: Bytes) -> Result<bool> {
        let _turn = self.0.lock().await;
        real.state().delete(key).await?;
        real.state().put_if_absent(key, value).await
    }
}

#[derive(Debug, Default)]
struct IgnoresVersions;

#[async_trait]
impl Sabotage for IgnoresVersions {
    async fn compare_and_set(
        &self,
        real: &dyn Backend,
        key: &str,
        _: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        loop {
            // Racers take turns here, as they would over a network.
            tokio::task::yield_now().await;
            let seen = real.state().get(key).await?.map(|v| v.version);
            let written = real.state().compare_and_set(key, seen, value.clone());
            if let Some(version) = written.await? {
                return Ok(Some(version));
            }
        }
    }
}

#[derive(Debug, Default)]
struct IncrementsText;

#[async_trait]
impl Sabotage for IncrementsText {
    async fn increment(&self, real: &dyn Backend, key: &str, by: i64) -> Result<i64> {
        match real.state().increment(key, by).await {
            Err(_) => Ok(by),
            sum => sum,
        }
    }
}

#[derive(Debug, Default)]
struct CutsValues;

#[async_trait]
impl Sabotage for CutsValues {
    async fn put_if_absent(&self, real: &dyn Backend, key: &str, value: Bytes) -> Result<bool> {
        let kept = value.slice(..value.len().min(100));
        real.state().put_if_absent(key, kept).await
    }
}

#[derive(Debug, Default)]
struct NumbersVersionsByLength;

impl Sabotage for NumbersVersionsByLength {
    fn value(&self, value: &mut Versioned) {
        value.version = value.value.len() as u64;
    }
}

#[derive(Debug, Default)]
struct KeepsAnyValue;

#[async_trait]
impl Sabotage for KeepsAnyValue {
    async fn put_if_absent(&self, real: &dyn Backend, key: &str, value: Bytes) -> Result<bool> {
        let most = fanfare_core::state::MAX_VALUE_BYTES;
        let kept = value.slice(..value.len().min(most));
        real.state().put_if_absent(key, kept).await
    }
}
