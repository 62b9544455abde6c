//! External members: their handlers run in other processes, behind HTTP, and settle by receipt.

use fanfare_core::capability::SettleFrom;
use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::subscription::SubscriptionName;

use crate::case::{Failure, Verdict, cases, require, require_eq};
use crate::offer::SETTLED_THERE;
use crate::stage::{Seat, Stage, dead, short_lease, spec};

cases! { "external";
    any_member_settles_what_another_received: 8 + live;
    deliveries_of_a_dead_member_come_one_by_one_but_do_not_wait: 9 + live;
    external_leases_outlive_a_restart: 1, Durable;
}

impl Stage {
    async fn outside(&self, subscription: &SubscriptionName) -> Verdict<Seat> {
        let member = Member {
            name: "somebody outside".into(),
            kind: MemberKind::External,
        };
        self.seat(subscription, member).await
    }
}

async fn any_member_settles_what_another_received(stage: &Stage) -> Verdict {
    stage.create(&spec("all", "**")?).await?;
    let first = stage.outside(&spec("all", "**")?.name).await?;
    let second = stage.outside(&first.subscription).await?;
    stage.publish_many("orders.placed", 10).await?;
    let taken = first.take(10).await?;
    second.ack(&taken).await?;
    first.nothing().await?;
    let counts = stage.counts(&first.subscription).await?;
    require_eq!(counts.acknowledged, 10, "acknowledged");
    Ok(())
}

async fn deliveries_of_a_dead_member_come_one_by_one_but_do_not_wait(stage: &Stage) -> Verdict {
    let mut spec = short_lease("all", "**")?;
    stage.create(&spec).await?;
    let dying = stage.outside(&spec.name).await?;
    let heir = stage.outside(&spec.name).await?;
    stage.publish_many("orders.placed", 4).await?;
    dying.take(4).await?;
    spec.lease = crate::stage::LONG_LEASE;
    stage.create(&spec).await?;
    let mut came = Vec::new();
    for _ in 0..4 {
        let one = heir.consumer.receive(10, stage.patience).await?;
        require_eq!(one.len(), 1, "deliveries beside one whose member died");
        came.extend(one);
    }
    heir.ack(&came).await
}

async fn external_leases_outlive_a_restart(stage: &mut Stage) -> Verdict {
    let has = stage.backend.capabilities();
    if has.shared && has.settle_from == SettleFrom::Node {
        // What a process holds goes with its connection, whoever handles it.
        return Err(Failure::NotOffered(SETTLED_THERE.into()));
    }

    stage.backend.admin().put(&spec("all", "**")?).await?;
    let name = spec("all", "**")?.name;
    let seat = stage.outside(&name).await?;
    stage.publish_many("orders.placed", 10).await?;
    let taken = seat.take(6).await?;
    stage.restart().await?;
    let seat = stage.outside(&name).await?;
    let rest = seat.take(4).await?;
    seat.nothing().await?;
    // Who received them before the restart settles them after it, whatever way.
    for (n, delivery) in taken.iter().enumerate() {
        let with = if n < 4 {
            Settlement::Ack
        } else {
            dead("rejected")
        };
        let settled = seat.try_settle(delivery.receipt, with).await?;
        require!(
            settled == Settled::Done,
            "a lease outside ended with us: {settled:?}"
        );
    }
    seat.ack(&rest).await?;
    let counts = stage.counts(&name).await?;
    require_eq!(
        (counts.acknowledged, counts.dead),
        (8, 2),
        "acknowledged, dead"
    );
    Ok(())
}
