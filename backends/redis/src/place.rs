//! Where an event stands: `ms * 2^64 + seq * 2^16 + index`, for the `index`-th event of the stream
//! entry `ms-seq`. As text, 32 hexadecimal digits that sort like the number.

use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;

/// The bits of the place within a frame.
const INDEX: u128 = 0xffff;
/// The largest sequence number of an entry that has a position.
const MAX_SEQUENCE: u128 = (1 << 48) - 1;

/// The position of the first event of the entry with this id; none where the id is no id of ours.
pub(crate) fn of_entry(id: &str) -> Option<u128> {
    let (ms, sequence) = id.split_once('-')?;
    let (ms, sequence) = (ms.parse::<u64>().ok()?, sequence.parse::<u64>().ok()?);
    let sequence = u128::from(sequence);
    (sequence <= MAX_SEQUENCE).then_some((u128::from(ms) << 64) | (sequence << 16))
}

/// The id of the entry that holds a position.
pub(crate) fn entry_of(position: u128) -> String {
    let (ms, sequence) = (position >> 64, (position >> 16) & MAX_SEQUENCE);
    format!("{ms}-{sequence}")
}

/// The position of the first event of the same entry.
pub(crate) fn head_of(position: u128) -> u128 {
    position & !INDEX
}

/// The last position that the same entry could have.
pub(crate) fn end_of(position: u128) -> u128 {
    position | INDEX
}

/// Which event of its frame it is.
pub(crate) fn index_of(position: u128) -> usize {
    usize::try_from(position & INDEX).unwrap_or(0)
}

/// As the scripts write it.
pub(crate) fn hex(position: u128) -> String {
    format!("{position:032x}")
}

/// As the scripts wrote it.
pub(crate) fn from_hex(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok()
}

/// The block that the scripts count it in.
pub(crate) fn block_of(position: u128) -> u128 {
    position >> 80
}

/// The first and last position of a block.
pub(crate) fn block_range(block: u128) -> (Position, Position) {
    let first = block << 80;
    (Position(first), Position(first | ((1 << 80) - 1)))
}

/// When the entry was appended, by the server's clock.
pub(crate) fn recorded(position: u128) -> Timestamp {
    Timestamp::from_millis(i64::try_from(position >> 64).unwrap_or(i64::MAX))
}

/// The last position before everything that was recorded at or after `time`.
pub(crate) fn before(time: Timestamp) -> u128 {
    let nanos = u128::try_from(time.as_nanos()).unwrap_or(0);
    (nanos.div_ceil(1_000_000) << 64).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_leads_back_to_its_entry() {
        let head = of_entry("1763685000123-7").unwrap();
        let position = head + 42;
        assert_eq!(entry_of(position), "1763685000123-7");
        assert_eq!((head_of(position), index_of(position)), (head, 42));
        assert_eq!(from_hex(&hex(position)), Some(position));
        assert!(hex(position) < hex(of_entry("1763685000123-8").unwrap()));
        assert_eq!(of_entry("1-281474976710656"), None);
        let time = recorded(position);
        assert!(before(time) < head && head <= before(time + std::time::Duration::from_millis(1)));
    }
}
