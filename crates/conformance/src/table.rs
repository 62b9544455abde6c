//! Table.

/// Table.
pub fn contract_table() -> String {
    String::new()
}
