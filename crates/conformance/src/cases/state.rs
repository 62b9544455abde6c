//! Shared values: atomic operations on single keys.

use bytes::Bytes;
use fanfare_core::state::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use futures::future::join_all;

use crate::case::{Failure, Verdict, cases, require, require_eq, require_kind};
use crate::stage::Stage;

cases! { "state";
    a_value_comes_back_as_it_was_put: 23 + live;
    a_thousand_concurrent_increments_are_all_counted: 23 + live;
    of_many_first_writers_one_wins: 23 + live;
    compare_and_set_writes_only_over_the_version_it_names: 23 + live;
    racing_compare_and_sets_lose_no_update: 23 + live;
    a_version_never_repeats: 23 + live;
    incrementing_what_is_no_number_is_refused: 23 + live;
    keys_and_values_are_bounded: 6 + live;
}

async fn a_value_comes_back_as_it_was_put(stage: &Stage) -> Verdict {
    let values = stage.backend.state();
    require_eq!(values.get("nothing").await?, None, "value of a new key");
    let every_byte = (0..=255_u8).collect::<Bytes>();
    let long_key = "k".repeat(MAX_KEY_BYTES);
    for key in ["progress/1", "a b", "\u{00fc}", "%_*", &long_key] {
        let new = values.put_if_absent(key, every_byte.clone()).await?;
        require!(new, "key `{key}` was there already");
        let value = values.get(key).await?.map(|versioned| versioned.value);
        require_eq!(value, Some(every_byte.clone()), "value of `{key}`");
    }
    require!(values.delete("a b").await?, "nothing was deleted");
    require!(!values.delete("a b").await?, "deleted twice");
    require_eq!(values.get("a b").await?, None, "value of a deleted key");
    require!(
        values.put_if_absent("a b", Bytes::new()).await?,
        "a deleted key is there"
    );
    let empty = values.get("a b").await?.map(|versioned| versioned.value);
    require_eq!(empty, Some(Bytes::new()), "an empty value");
    Ok(())
}

async fn a_thousand_concurrent_increments_are_all_counted(stage: &Stage) -> Verdict {
    let values = stage.backend.state();
    let mut sums = Vec::new();
    for sum in join_all((0..1_000).map(|_| values.increment("counter", 1))).await {
        sums.push(sum?);
    }
    sums.sort_unstable();
    let each_once = sums.iter().copied().eq(1..=1_000);
    require!(
        each_once,
        "1,000 increments did not answer 1 to 1,000, each once"
    );
    require_eq!(
        values.increment("counter", -1_500).await?,
        -500,
        "sum after a decrement"
    );
    let shown = values
        .get("counter")
        .await?
        .map(|versioned| versioned.value);
    require_eq!(
        shown,
        Some(Bytes::from_static(b"-500")),
        "the number as a value"
    );
    require_eq!(values.increment("other", 0).await?, 0, "another counter");
    Ok(())
}

async fn of_many_first_writers_one_wins(stage: &Stage) -> Verdict {
    let values = stage.backend.state();
    let writers = (0..100).map(|n| values.put_if_absent("leader", Bytes::from(n.to_string())));
    let mut winners = Vec::new();
    for (n, won) in join_all(writers).await.into_iter().enumerate() {
        if won? {
            winners.push(Bytes::from(n.to_string()));
        }
    }
    require_eq!(winners.len(), 1, "writers that won");
    let value = values.get("leader").await?.map(|versioned| versioned.value);
    require_eq!(value.as_ref(), winners.first(), "value");
    Ok(())
}

async fn compare_and_set_writes_only_over_the_version_it_names(stage: &Stage) -> Verdict {
    let values = stage.backend.state();
    let (one, two) = (Bytes::from_static(b"1"), Bytes::from_static(b"2"));
    require_eq!(
        values.compare_and_set("k", Some(1), one.clone()).await?,
        None,
        "over nothing"
    );
    let first = values.compare_and_set("k", None, one.clone()).await?;
    require!(first.is_some(), "the first write lost");
    require_eq!(
        values.compare_and_set("k", None, two.clone()).await?,
        None,
        "over a value"
    );
    let version = values.get("k").await?.map(|versioned| versioned.version);
    require_eq!(version, first, "version");
    let second = values.compare_and_set("k", first, two.clone()).await?;
    require!(
        second.is_some() && second != first,
        "versions {first:?}, {second:?}"
    );
    require_eq!(
        values.compare_and_set("k", first, one).await?,
        None,
        "over an old version"
    );
    let value = values.get("k").await?.map(|versioned| versioned.value);
    require_eq!(value, Some(two), "value");
    Ok(())
}

async fn racing_compare_and_sets_lose_no_update(stage: &Stage) -> Verdict {
    let racer = |n: usize| async move {
        let values = stage.backend.state();
        for round in 0..20 {
            let mut tries = 0;
            loop {
                let now = values.get("list").await?;
                let mut list = now.as_ref().map(|v| v.value.to_vec()).unwrap_or_default();
                list.extend(format!("{n}.{round};").bytes());
                let expected = now.map(|v| v.version);
                if values
                    .compare_and_set("list", expected, list.into())
                    .await?
                    .is_some()
                {
                    break;
                }
                tries += 1;
                require!(tries < 10_000, "nobody wins the race");
                tokio::task::yield_now().await;
            }
        }
        Verdict::Ok(())
    };
    for done in join_all((0..10).map(racer)).await {
        done?;
    }
    let list = stage.backend.state().get("list").await?;
    let list = list.ok_or_else(|| Failure::new("no list"))?.value;
    let mut entries: Vec<_> = list
        .split(|b| *b == b';')
        .filter(|e| !e.is_empty())
        .collect();
    entries.sort_unstable();
    entries.dedup();
    require_eq!(entries.len(), 200, "distinct entries written by 10 racers");
    Ok(())
}

async fn a_version_never_repeats(stage: &Stage) -> Verdict {
    let values = stage.backend.state();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..20 {
        values.put_if_absent("k", Bytes::from_static(b"0")).await?;
        values.increment("k", 1).await?;
        let version = values.get("k").await?.map(|versioned| versioned.version);
        require!(
            seen.insert(version),
            "version {version:?} came again in round {round}"
        );
        values.delete("k").await?;
    }
    Ok(())
}

async fn incrementing_what_is_no_number_is_refused(stage: &Stage) -> Verdict {
    let values = stage.backend.state();
    let text = Bytes::from_static(b"no number");
    values.put_if_absent("k", text.clone()).await?;
    let refused = values.increment("k", 1).await;
    require!(refused.is_err(), "a text was incremented to {refused:?}");
    let value = values.get("k").await?.map(|versioned| versioned.value);
    require_eq!(value, Some(text), "value");
    values
        .put_if_absent("most", Bytes::from(i64::MAX.to_string()))
        .await?;
    require!(
        values.increment("most", 1).await.is_err(),
        "a sum beyond 64 bits was answered"
    );
    Ok(())
}

async fn keys_and_values_are_bounded(stage: &Stage) -> Verdict {
    let values = stage.backend.state();
    let big = Bytes::from(vec![0; MAX_VALUE_BYTES]);
    require!(
        values.put_if_absent("fits", big).await?,
        "the largest value was refused"
    );
    let too_big = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
    require_kind!(values.put_if_absent("k", too_big.clone()).await, TooLarge);
    require_kind!(values.compare_and_set("k", None, too_big).await, TooLarge);
    let long_key = "k".repeat(MAX_KEY_BYTES + 1);
    let refused = values.put_if_absent(&long_key, Bytes::new()).await;
    require!(refused.is_err(), "a key above the limit was taken");
    require_eq!(values.get("k").await?, None, "value after refusals");
    Ok(())
}
