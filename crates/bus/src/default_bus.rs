//! The bus of the whole process, for programs that cannot pass a handle around. Setting it twice
//! or using it before is an error, never a panic.

use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind};
use parking_lot::RwLock;

use crate::bus::{Bus, ShutdownReport};
use crate::event::IntoEvent;
use crate::subscribe::{IntoPatterns, SubscribeBuilder};

static DEFAULT: RwLock<Option<Bus>> = RwLock::new(None);

/// Makes `bus` the default; a [`Conflict`](ErrorKind::Conflict) while there is one.
pub fn init(bus: Bus) -> Result<()> {
    let mut default = DEFAULT.write();
    if default.is_some() {
        let text = "the default bus was set before; shut it down first";
        return Err(Error::new(ErrorKind::Conflict, text));
    }
    *default = Some(bus);
    Ok(())
}

/// The default; a [`NotFound`](ErrorKind::NotFound) error before [`init`].
pub fn get() -> Result<Bus> {
    DEFAULT.read().clone().ok_or_else(|| {
        let text = "there is no default bus: call `default_bus::init` first";
        Error::new(ErrorKind::NotFound, text)
    })
}

/// Publishes on the default bus; see [`Bus::publish`].
pub async fn publish(event: impl IntoEvent) -> Result<Published> {
    get()?.publish(event).await
}

/// Queues on the default bus; see [`Bus::try_publish`].
pub fn try_publish(event: impl IntoEvent) -> Result<()> {
    get()?.try_publish(event)
}

/// Subscribes on the default bus; see [`Bus::subscribe`].
pub fn subscribe(name: &str, patterns: impl IntoPatterns) -> Result<SubscribeBuilder> {
    Ok(get()?.subscribe(name, patterns))
}

/// Shuts the default bus down and forgets it; see [`Bus::shutdown`].
pub async fn shutdown(grace: Duration) -> Result<ShutdownReport> {
    let bus = get()?;
    let report = bus.shutdown(grace).await;
    DEFAULT.write().take();
    report
}
