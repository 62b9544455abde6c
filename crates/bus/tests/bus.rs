//! The bus on the in-memory backend, promise by promise. Time is moved by hand; what happens on
//! other tasks is waited for by signals.

#[cfg(test)]
#[path = "bus/harness.rs"]
mod harness;

#[cfg(test)]
#[path = "bus/faulty.rs"]
mod faulty;

#[cfg(test)]
#[path = "bus/broken.rs"]
mod broken;
#[path = "bus/context.rs"]
mod context;
#[path = "bus/failing.rs"]
mod failing;
#[cfg(test)]
#[path = "bus/forwarding.rs"]
mod forwarding;
#[path = "bus/publishing.rs"]
mod publishing;
#[path = "bus/shutdown.rs"]
mod shutdown;
#[cfg(test)]
#[path = "bus/stress.rs"]
mod stress;
#[path = "bus/subscribing.rs"]
mod subscribing;
#[path = "bus/telemetry.rs"]
mod telemetry;
#[cfg(test)]
#[path = "bus/testing.rs"]
mod testing;
