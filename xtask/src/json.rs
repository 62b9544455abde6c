//! Reading JSON that others wrote: what is not there is null, never a panic.

use serde_json::Value;

static NULL: Value = Value::Null;

/// Path access.
pub(crate) trait At {
    /// The value under `path`, member names with `/` between them, or null.
    fn at(&self, path: &str) -> &Value;
}

impl At for Value {
    fn at(&self, path: &str) -> &Value {
        path.split('/')
            .try_fold(self, |value, name| value.get(name))
            .unwrap_or(&NULL)
    }
}
