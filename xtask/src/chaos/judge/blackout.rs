//! A machine without power answers nobody. Our cut ends the file system first and the server a
//! moment later, and an answer from between the two is not the machine's: Linux may even report a
//! flush as done that it gave up because of the cut (seen on 6.18 with a ten-line program). So what
//! was answered after the moment of the cut counts as not answered.

use crate::chaos::record::Entry;

/// The record as a machine whose power was cut would have left it.
pub(super) fn apply(record: &[Entry]) -> Vec<Entry> {
    let mut seen = Vec::with_capacity(record.len());
    let mut life = 0;
    for entry in record {
        match entry {
            Entry::Down => life = seen.len() + 1,
            Entry::Cut { moment } => {
                for answer in seen.iter_mut().skip(life) {
                    unanswer(answer, *moment);
                }
                life = seen.len() + 1;
            }
            _ => {}
        }
        seen.push(entry.clone());
    }
    seen
}

fn unanswer(entry: &mut Entry, moment: u64) {
    let without = match entry {
        Entry::Acked { id, at, .. } if *at >= moment => Entry::InDoubt { id: id.clone() },
        Entry::Settled { sub, token, at, .. } if *at >= moment => Entry::Adrift {
            sub: sub.clone(),
            token: token.clone(),
        },
        _ => return,
    };
    *entry = without;
}
