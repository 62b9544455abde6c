//! One value or many: most publishes are of a single event, which needs no list of its own.

/// One value, or a list of any length.
#[derive(Debug)]
pub(crate) enum Few<T> {
    /// Not on the heap.
    One(T),
    /// Everything else.
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    /// As many values from `source` as there are here.
    pub(crate) fn as_many<U>(&self, source: &mut impl Iterator<Item = U>) -> Few<U> {
        match self {
            Self::One(_) if let Some(value) = source.next() => Few::One(value),
            _ => Few::Many(source.take(self.as_slice().len()).collect()),
        }
    }

    /// Every value through `change`, as a list.
    pub(crate) fn into_list<U>(self, change: impl Fn(T) -> U) -> Vec<U> {
        match self {
            Self::One(value) => vec![change(value)],
            Self::Many(values) => values.into_iter().map(change).collect(),
        }
    }
}
