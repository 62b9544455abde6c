//! The generated part of the backend contract is what the code says.
//! `FANFARE_WRITE_DOCS=1 cargo test -p fanfare-conformance --test contract` writes it.

use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- generated: promises -->\n";
const END: &str = "<!-- end of generated -->\n";

#[test]
fn the_contract_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/spec/backend-contract.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the begin marker");
    let (_, after) = rest.split_once(END).expect("the end marker");
    let table = fanfare_conformance::contract_table();
    let fresh = format!("{before}{BEGIN}\n{table}{END}{after}");
    if std::env::var_os("FANFARE_WRITE_DOCS").is_some() {
        fs::write(&path, &fresh).unwrap();
        return;
    }
    assert!(
        text == fresh,
        "docs/spec/backend-contract.md is stale; run \
         FANFARE_WRITE_DOCS=1 cargo test -p fanfare-conformance --test contract"
    );
}
