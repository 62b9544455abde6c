//! Words that begin with `#`: `#status:done` and `#assign:ada` change the task, every other one can
//! be looked for. Needs no inbox: what it writes and publishes is the same each time.

use fanfare::core::id::EventId;
use fanfare::prelude::*;

use crate::events::{About, MessagePosted, StatusChanged, UserAssigned, of_chat};
use crate::{Result, Store};

pub(super) async fn message_posted(
    about: About,
    Data(message): Data<MessagePosted>,
    State(store): State<Store>,
    bus: Bus,
) -> Result {
    let words = message.text.split_whitespace();
    for tag in words.filter_map(|word| word.strip_prefix('#')) {
        match tag.split_once(':') {
            Some(("status", status)) => {
                let status = status.to_owned();
                publish(&bus, &about, tag, &StatusChanged { status }).await?;
            }
            Some(("assign", user)) => {
                let user_id = user.to_owned();
                publish(&bus, &about, tag, &UserAssigned { user_id }).await?;
            }
            _ => remember(&store, &about, tag)?,
        }
    }
    Ok(())
}

/// On behalf of whoever posted the message: the bus hands on the user, and says which event was the
/// cause. The id is made of the message's, so that handling the message twice publishes one event.
async fn publish(bus: &Bus, about: &About, tag: &str, change: &impl DomainEvent) -> Result {
    let id = EventId::derived(&[&about.id.to_string(), tag]);
    bus.publish(of_chat(&about.chat, change)?.id(id)).await?;
    Ok(())
}

fn remember(store: &Store, about: &About, tag: &str) -> Result {
    store.run(|db| {
        let remember = "INSERT OR IGNORE INTO tag (tag, chat) VALUES (?1, ?2)";
        db.execute(remember, (tag, &about.chat))?;
        Ok(())
    })
}

/// The chats with a tag.
pub fn chats(store: &Store, tag: &str) -> Result<Vec<String>> {
    store.run(|db| {
        let mut chats = db.prepare_cached("SELECT chat FROM tag WHERE tag = ?1 ORDER BY chat")?;
        let chats = chats.query_map([tag], |row| row.get(0))?;
        Ok(chats.collect::<Result<_, _>>()?)
    })
}
