//! The ids that travel from what is handled to what is published: trace, user, session, request,
//! correlation and causation. They reach events published inside a handler, or inside
//! [`Context::scope`], without being passed. Not a place for anything else.

use std::future::Future;
use std::sync::Arc;

use fanfare_core::event::{Event, EventBuilder, ExtensionValue, extension};

tokio::task_local! {
    static CURRENT: Context;
}

type Values = Vec<(&'static str, Arc<str>)>;

/// What is handed on as it is.
const INHERITED: [&str; 6] = [
    extension::TRACEPARENT,
    extension::TRACESTATE,
    extension::USER_ID,
    extension::SESSION_ID,
    extension::REQUEST_ID,
    extension::CORRELATION_ID,
];

/// On whose behalf, and because of what, something happens. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Set by the program; they win over the cause's.
    values: Option<Arc<Values>>,
    /// The event being handled.
    cause: Option<Event>,
}

impl Context {
    /// The context of the calling task; empty outside of a handler or a scope.
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// The context of a handler of `event`.
    pub fn caused_by(event: &Event) -> Self {
        Self {
            values: None,
            cause: Some(event.clone()),
        }
    }

    /// Runs `future` in this context.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Sets the user.
    #[must_use]
    pub fn user(self, id: impl Into<Arc<str>>) -> Self {
        self.set(extension::USER_ID, id.into())
    }

    /// Sets the user's session.
    #[must_use]
    pub fn session(self, id: impl Into<Arc<str>>) -> Self {
        self.set(extension::SESSION_ID, id.into())
    }

    /// Sets the request.
    #[must_use]
    pub fn request(self, id: impl Into<Arc<str>>) -> Self {
        self.set(extension::REQUEST_ID, id.into())
    }

    /// Sets the conversation.
    #[must_use]
    pub fn correlation(self, id: impl Into<Arc<str>>) -> Self {
        self.set(extension::CORRELATION_ID, id.into())
    }

    /// Sets the W3C trace context.
    #[must_use]
    pub fn trace(self, traceparent: impl Into<Arc<str>>) -> Self {
        self.set(extension::TRACEPARENT, traceparent.into())
    }

    /// Sets the W3C trace state.
    #[must_use]
    pub fn trace_state(self, tracestate: impl Into<Arc<str>>) -> Self {
        self.set(extension::TRACESTATE, tracestate.into())
    }

    /// The event being handled, if any.
    pub fn cause(&self) -> Option<&Event> {
        self.cause.as_ref()
    }

    fn set(mut self, name: &'static str, value: Arc<str>) -> Self {
        let mut values = self
            .values
            .take()
            .map_or_else(Vec::new, Arc::unwrap_or_clone);
        values.retain(|(n, _)| *n != name);
        values.push((name, value));
        self.values = Some(Arc::new(values));
        self
    }

    /// Whether a handler is running in this task.
    pub(crate) fn inside_a_handler() -> bool {
        Self::with_current(|context| context.cause.is_some())
    }

    pub(crate) fn with_current<T>(f: impl FnOnce(&Self) -> T) -> T {
        // `f` runs outside of `try_with`, which would drop it where there is no context.
        let current = CURRENT.try_with(Clone::clone);
        match current {
            Ok(context) => f(&context),
            Err(_) => f(&Self::default()),
        }
    }

    pub(crate) fn sync_scope<T>(self, f: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, f)
    }

    pub(crate) fn adds_nothing_to(&self, event: &Event) -> bool {
        self.additions()
            .all(|(name, _)| event.extension(name).is_some())
    }

    pub(crate) fn apply(&self, builder: EventBuilder) -> EventBuilder {
        self.additions().fold(builder, |builder, (name, value)| {
            builder.extension_if_absent(name, value)
        })
    }

    /// Every id to hand on; where one comes twice the first counts.
    fn additions(&self) -> impl Iterator<Item = (&'static str, ExtensionValue)> {
        let set = self
            .values
            .iter()
            .flat_map(|values| values.iter())
            .map(|(name, value)| (*name, ExtensionValue::from(Arc::clone(value))));
        let caused = self.cause.iter().flat_map(|cause| {
            let inherited = INHERITED
                .into_iter()
                .filter_map(|name| Some((name, cause.extension(name)?.clone())));
            let id: Arc<str> = cause.id().to_string().into();
            let of_cause = [extension::CAUSATION_ID, extension::CORRELATION_ID]
                .into_iter()
                .map(move |name| (name, ExtensionValue::from(Arc::clone(&id))));
            inherited.chain(of_cause)
        });
        set.chain(caused)
    }
}
