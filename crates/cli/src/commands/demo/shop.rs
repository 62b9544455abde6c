//! The shop: its events, its handlers that fail on purpose, and its customers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fanfare::bus::{Attempt, Data, DomainEvent, State};
use fanfare::core::event::Event;
use fanfare::core::id::EventId;
use fanfare::core::retry::RetryPolicy;
use fanfare::core::subscription::Start;
use fanfare::{Bus, Event};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::story::Story;
use crate::failure::Result;
use crate::output::Tone;

/// The subscription whose deliveries become dead letters.
pub(super) const BILLING: &str = "billing";
/// While the card terminal is broken, every order with a number divisible by this is refused.
const REFUSED_EVERY: u64 = 7;
/// How often billing tries.
const BILLING_ATTEMPTS: u32 = 3;
/// How many orders the warehouse remembers.
const REMEMBERED_ORDERS: usize = 10_000;

/// A customer ordered something.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(type = "shop.orders.placed", version = "1", source = "/shop")]
struct OrderPlaced {
    #[event(key)]
    order: u64,
    customer: String,
    cents: u64,
}

/// The money is there.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(type = "shop.payments.captured", version = "1", source = "/shop")]
struct PaymentCaptured {
    #[event(key)]
    order: u64,
    cents: u64,
}

/// The parcel left.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(type = "shop.orders.shipped", version = "1", source = "/shop")]
struct OrderShipped {
    #[event(key)]
    order: u64,
}

type Handled = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The state that handlers and operator share.
#[derive(Debug, Clone)]
pub(super) struct Shop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    story: Story,
    terminal_works: AtomicBool,
    shipped: AtomicU64,
    /// How far each order is.
    steps: Mutex<BTreeMap<u64, Step>>,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Packed,
    Paid,
    Shipped,
}

impl Shop {
    /// Starts the three subscriptions.
    pub(super) async fn open(bus: &Bus, story: &Story) -> Result<Self> {
        let shop = Self(Arc::new(Inner {
            story: story.clone(),
            terminal_works: AtomicBool::new(false),
            shipped: AtomicU64::new(0),
            steps: Mutex::default(),
        }));
        let half_a_second = RetryPolicy {
            max_attempts: BILLING_ATTEMPTS,
            initial: Duration::from_millis(500),
            jitter: false,
            ..RetryPolicy::default()
        };
        bus.subscribe(BILLING, "shop.orders.placed")
            .start(Start::Earliest)
            .retry(half_a_second)
            .concurrency(4)
            .state(shop.clone())
            .handle(charge)
            .await?;
        bus.subscribe("mailer", "shop.payments.captured")
            .start(Start::Earliest)
            .retry(RetryPolicy::fixed(5, Duration::from_secs(1)))
            .concurrency(4)
            .state(shop.clone())
            .handle(thank)
            .await?;
        bus.subscribe("warehouse", ["shop.orders.*", "shop.payments.*"])
            .start(Start::Earliest)
            .ordered()
            .concurrency(4)
            .state(shop.clone())
            .handle(pack)
            .await?;
        Ok(shop)
    }

    /// Mends the card terminal, or breaks it again.
    pub(super) fn set_terminal(&self, works: bool) {
        self.0.terminal_works.store(works, Ordering::Relaxed);
    }

    /// How many orders left the shop.
    pub(super) fn shipped(&self) -> u64 {
        self.0.shipped.load(Ordering::Relaxed)
    }

    /// Moves an order on; an error when a later step was there first.
    fn step(&self, order: u64, now: Step) -> Handled {
        let mut steps = self.0.steps.lock();
        match steps.get(&order) {
            Some(before) if *before > now => {
                return Err(format!("order {order} was {before:?} before it was {now:?}").into());
            }
            _ => steps.insert(order, now),
        };
        while steps.len() > REMEMBERED_ORDERS {
            steps.pop_first();
        }
        Ok(())
    }
}

/// Charges the card. What it publishes has an id made from the event it handles, so that a repeated
/// delivery publishes the same event again, which is stored once.
async fn charge(
    Data(order): Data<OrderPlaced>,
    State(shop): State<Shop>,
    Attempt(attempt): Attempt,
    event: Event,
    bus: Bus,
) -> Handled {
    let (story, number) = (&shop.0.story, order.order);
    let works = shop.0.terminal_works.load(Ordering::Relaxed);
    if number.is_multiple_of(REFUSED_EVERY) && !works {
        let text = format!(
            "order {number}: attempt {attempt} of {BILLING_ATTEMPTS} failed: the card terminal is broken"
        );
        story.mention(BILLING, Tone::Bad, &text);
        return Err("the card terminal is broken".into());
    }
    let captured = PaymentCaptured {
        order: number,
        cents: order.cents,
    };
    let id = EventId::derived(&["payment", &event.id().to_string()]);
    bus.publish(captured.to_builder()?.id(id)).await?;
    let text = format!("order {number}: charged {}", euros(order.cents));
    story.mention(BILLING, Tone::Plain, &text);
    Ok(())
}

/// Thanks the customer, and fails each event once.
async fn thank(
    Data(payment): Data<PaymentCaptured>,
    State(shop): State<Shop>,
    Attempt(attempt): Attempt,
) -> Handled {
    let (story, number) = (&shop.0.story, payment.order);
    if attempt == 1 {
        let text = format!("order {number}: attempt 1 failed: the mail server hung up");
        story.mention("mailer", Tone::Bad, &text);
        return Err("the mail server hung up".into());
    }
    let text = format!("order {number}: thanks sent on attempt {attempt}");
    story.mention("mailer", Tone::Good, &text);
    Ok(())
}

/// Packs and ships, one event of an order after another.
async fn pack(event: Event, State(shop): State<Shop>, bus: Bus) -> Handled {
    let number: u64 = event.key().unwrap_or_default().parse()?;
    match event.event_type().as_str() {
        OrderPlaced::TYPE => shop.step(number, Step::Packed)?,
        PaymentCaptured::TYPE => {
            shop.step(number, Step::Paid)?;
            let id = EventId::derived(&["shipment", &event.id().to_string()]);
            let shipped = OrderShipped { order: number };
            bus.publish(shipped.to_builder()?.id(id)).await?;
        }
        _ => {
            shop.step(number, Step::Shipped)?;
            shop.0.shipped.fetch_add(1, Ordering::Relaxed);
            let text = format!("order {number}: packed, paid, shipped");
            shop.0.story.mention("warehouse", Tone::Plain, &text);
        }
    }
    Ok(())
}

/// Customers who order without end.
#[derive(Debug)]
pub(super) struct Customers {
    bus: Bus,
    story: Story,
    pause: Duration,
}

impl Customers {
    /// Customers who place `rate` orders a second.
    pub(super) fn new(bus: &Bus, story: &Story, rate: u16) -> Self {
        Self {
            bus: bus.clone(),
            story: story.clone(),
            pause: Duration::from_secs(1) / u32::from(rate.max(1)),
        }
    }

    /// Orders without end; fails when publishing or telling does.
    pub(super) async fn order(&mut self) -> Result<()> {
        const NAMES: [&str; 5] = ["Ada", "Grace", "Alan", "Edsger", "Barbara"];
        // A kept database goes on counting, so that numbers stay keys.
        let first = self.bus.backend().admin().stats().await?.events + 1;
        for (order, customer) in (first..).zip(NAMES.iter().cycle()) {
            let placed = OrderPlaced {
                order,
                customer: (*customer).to_owned(),
                cents: 500 + order * 1_337 % 9_500,
            };
            let text = format!(
                "order {order}: {customer} orders for {}",
                euros(placed.cents)
            );
            self.story.tell("customer", Tone::Faint, &text)?;
            self.bus.publish(placed).await?;
            self.bus.clock().sleep(self.pause).await;
        }
        Ok(())
    }
}

fn euros(cents: u64) -> String {
    format!("{}.{:02} EUR", cents / 100, cents % 100)
}
