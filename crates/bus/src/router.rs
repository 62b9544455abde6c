//! From patterns to handlers, within one subscription: the first route that matches, in the order
//! in which they were added. Which events a subscription receives at all is its pattern set's.

use std::fmt;
use std::sync::Arc;

use fanfare_core::Result;
use fanfare_core::error::{Error, Violation};
use fanfare_core::event_type::EventType;
use fanfare_core::pattern::Pattern;
use hashbrown::HashMap;
use tower::{Layer, Service};

use crate::extract::States;
use crate::handler::{self, BoxError, Call, Handler, HandlerService, Outcome, Request};

/// Patterns to async functions.
#[derive(Clone, Default)]
pub struct Router {
    routes: Vec<(Pattern, Arc<dyn Call>)>,
    states: States,
    violations: Vec<Violation>,
}

impl Router {
    /// A router without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Handles events whose type matches `pattern`, unless an earlier route does. A pattern that
    /// is malformed or given twice is reported when the subscription starts.
    #[must_use]
    pub fn route<Args: 'static, H: Handler<Args>>(mut self, pattern: &str, handler: H) -> Self {
        match Pattern::parse(pattern) {
            Ok(pattern) if self.routes.iter().any(|(known, _)| *known == pattern) => {
                self.violations.push(Violation {
                    pointer: "/route".into(),
                    detail: format!("two routes for `{pattern}`: the second would never run"),
                });
            }
            Ok(pattern) => self.routes.push((pattern, handler::erase(handler))),
            Err(error) => self.violations.extend_from_slice(error.violations()),
        }
        self
    }

    /// Gives handlers a value; see [`State`](crate::extract::State).
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// Wraps the routes added so far in a tower layer; the last one added is the outermost.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<HandlerService>,
        L::Service: Service<Request, Response = Outcome> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
        <L::Service as Service<Request>>::Error: Into<BoxError>,
    {
        for (_, call) in &mut self.routes {
            *call = handler::wrap(&layer, Arc::clone(call));
        }
        self
    }

    pub(crate) fn states(&self) -> &States {
        &self.states
    }

    /// The index to dispatch with, or every violation.
    pub(crate) fn build(self) -> Result<Routes> {
        let mut violations = self.violations;
        if self.routes.is_empty() && violations.is_empty() {
            violations.push(Violation {
                pointer: "/route".into(),
                detail: "the router has no routes".into(),
            });
        }
        if !violations.is_empty() {
            return Err(Error::violating(violations));
        }
        let mut routes = Routes::default();
        for (order, (pattern, call)) in self.routes.into_iter().enumerate() {
            if pattern.is_exact() {
                routes.exact.insert(pattern.as_str().into(), (order, call));
            } else {
                routes.wild.push((order, pattern, call));
            }
        }
        Ok(routes)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.routes.iter().map(|(pattern, _)| pattern))
            .finish()
    }
}

/// Routes in an order that finds the first match quickly: exact ones by hash.
#[derive(Default)]
pub(crate) struct Routes {
    exact: HashMap<Box<str>, (usize, Arc<dyn Call>)>,
    wild: Vec<(usize, Pattern, Arc<dyn Call>)>,
}

impl Routes {
    /// A single handler for whatever the subscription receives.
    pub(crate) fn always(call: Arc<dyn Call>) -> Self {
        Self {
            exact: HashMap::new(),
            wild: vec![(0, Pattern::everything(), call)],
        }
    }

    /// The first route that matches.
    pub(crate) fn find(&self, event_type: &EventType) -> Option<&Arc<dyn Call>> {
        let exact = if self.exact.is_empty() {
            None
        } else {
            self.exact.get(event_type.as_str())
        };
        let before = exact.map_or(usize::MAX, |(order, _)| *order);
        self.wild
            .iter()
            .take_while(|(order, _, _)| *order < before)
            .find(|(_, pattern, _)| pattern.as_str() == "**" || pattern.matches(event_type))
            .map(|(_, _, call)| call)
            .or(exact.map(|(_, call)| call))
    }

    /// Whether everything that the handlers' extractors need is there.
    pub(crate) fn check(&self, states: &States) -> Result<()> {
        let wild = self.wild.iter().map(|(_, _, call)| call);
        let mut exact: Vec<_> = self.exact.values().collect();
        exact.sort_by_key(|(order, _)| *order);
        let all = exact.into_iter().map(|(_, call)| call).chain(wild);
        let violations: Vec<_> = all
            .filter_map(|call| call.check(states).err())
            .flat_map(|error| error.violations().to_vec())
            .collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::violating(violations))
        }
    }

    /// Wraps every route in a layer.
    pub(crate) fn wrap(&mut self, layer: &dyn Fn(Arc<dyn Call>) -> Arc<dyn Call>) {
        for (_, call) in self.exact.values_mut() {
            *call = layer(Arc::clone(call));
        }
        for (_, _, call) in &mut self.wild {
            *call = layer(Arc::clone(call));
        }
    }
}
