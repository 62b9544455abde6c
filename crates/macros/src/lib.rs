//! `#[derive(Event)]`: a Rust type that is one event type. The trait it implements,
//! `DomainEvent`, lives in the bus; nothing here runs when an event is published.

mod derive;
mod grammar;

use proc_macro::TokenStream;

/// Implements `DomainEvent`, so that values can be published and extracted as data.
///
/// ```ignore
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "orders.placed", version = "1", source = "/orders")]
/// struct OrderPlaced {
///     #[event(key)]
///     order_id: Uuid,
///     #[event(subject)]
///     customer: Option<String>,
///     total: u64,
/// }
/// ```
///
/// On the type: `type` is required and checked while compiling; `version` and `source` are
/// optional; `crate` is the path of the bus where it is not `::fanfare::bus`. On one field each:
/// `key` makes it the ordering key, `subject` the subject; the field is `Display`, or an `Option`
/// of that.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    derive::expand(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
