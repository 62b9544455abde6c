//! Patterns: who receives what, and what changing them means.

use std::collections::BTreeSet;

use fanfare_core::pattern::PatternSet;

use crate::case::{Verdict, cases, require_eq};
use crate::stage::{Stage, event, require_same, spec};

cases! { "pattern";
    each_pattern_receives_exactly_what_it_matches: 7 + live;
    an_event_that_matches_two_patterns_comes_once: 7 + live;
    a_subscription_that_matches_nothing_receives_nothing: 7 + live;
    changed_patterns_hold_from_now_on: 24 + live;
}

const TYPES: [&str; 11] = [
    "email",
    "email.sent",
    "email.sent.late",
    "public.users.create",
    "public.users.update",
    "private.users.create",
    "public.create",
    "public.a.b.create",
    "Public.users.create",
    "SOURCE_CREATED",
    "x.a.y.a.z",
];

async fn each_pattern_receives_exactly_what_it_matches(stage: &Stage) -> Verdict {
    let expected: [(&str, &[&str]); 11] = [
        ("**", &TYPES),
        ("*", &TYPES),
        ("email", &["email"]),
        ("email.#", &["email", "email.sent", "email.sent.late"]),
        ("email.>", &["email.sent", "email.sent.late"]),
        ("email.*", &["email.sent"]),
        (
            "*.users.create",
            &[
                "public.users.create",
                "private.users.create",
                "Public.users.create",
            ],
        ),
        (
            "public.**.create",
            &["public.users.create", "public.create", "public.a.b.create"],
        ),
        ("**.a.**", &["public.a.b.create", "x.a.y.a.z"]),
        ("**.a.*", &["x.a.y.a.z"]),
        ("SOURCE_CREATED", &["SOURCE_CREATED"]),
    ];
    let mut seats = Vec::new();
    for (n, (pattern, types)) in expected.iter().enumerate() {
        seats.push((stage.join_new(&format!("p{n}"), pattern).await?, *types));
    }
    let published = TYPES
        .iter()
        .map(|t| Ok(event(t)?.build()?))
        .collect::<Verdict<Vec<_>>>()?;
    stage.publish(&published).await?;
    for (seat, types) in seats {
        let wanted: Vec<_> = published
            .iter()
            .filter(|event| types.contains(&event.event_type().as_str()))
            .cloned()
            .collect();
        require_same(&seat.finish(wanted.len()).await?, &wanted)?;
    }
    Ok(())
}

async fn an_event_that_matches_two_patterns_comes_once(stage: &Stage) -> Verdict {
    let seat = stage
        .join_new("all", "orders.* orders.placed ** *.placed")
        .await?;
    let published = stage.publish_many("orders.placed", 20).await?;
    require_same(&seat.finish(20).await?, &published)?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(
        (counts.published, counts.acknowledged),
        (20, 20),
        "published, acknowledged"
    );
    Ok(())
}

async fn a_subscription_that_matches_nothing_receives_nothing(stage: &Stage) -> Verdict {
    let seat = stage.join_new("none", "nothing.like.this").await?;
    stage.publish_many("orders.placed", 200).await?;
    seat.nothing().await?;
    require_eq!(
        stage.counts(&seat.subscription).await?.published,
        0,
        "published"
    );
    Ok(())
}

async fn changed_patterns_hold_from_now_on(stage: &Stage) -> Verdict {
    let seat = stage.join(&spec("all", "orders.*")?).await?;
    let admin = stage.backend.admin();
    // Unsettled under the old patterns: three are leased, two wait above the frontier.
    let before = stage.publish_many("orders.placed", 5).await?;
    stage.publish_many("users.created", 5).await?;
    let mut came = seat.take(3).await?;
    let users = PatternSet::parse(["users.*"])?;
    admin
        .set_patterns(&seat.subscription, users.clone())
        .await?;
    require_eq!(
        admin.get(&seat.subscription).await?.spec.patterns,
        users,
        "patterns"
    );

    stage.publish_many("orders.placed", 5).await?;
    let after = stage.publish_many("users.created", 5).await?;
    came.extend(seat.take(7).await?);
    seat.ack(&came).await?;
    seat.nothing().await?;
    let wanted: Vec<_> = before.into_iter().chain(after).collect();
    require_same(&came, &wanted)?;
    let types: BTreeSet<_> = came.iter().map(|d| d.event.event_type().as_str()).collect();
    require_eq!(types.len(), 2, "types that came");
    require_eq!(
        stage.counts(&seat.subscription).await?.published,
        10,
        "published"
    );
    Ok(())
}
