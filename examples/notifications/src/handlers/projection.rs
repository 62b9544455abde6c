//! The chat as people see it: one row that the events of the chat bring up to date.

use fanfare::prelude::*;
use rusqlite::OptionalExtension;
use serde::Serialize;

use crate::events::{About, ChatCreated, MessagePosted, StatusChanged, UserAssigned};
use crate::{Result, Store};

const HANDLER: &str = "projection";

pub(super) fn routes() -> Router {
    Router::new()
        .route("ChatCreated", chat_created)
        .route("UserAssigned", user_assigned)
        .route("StatusChanged", status_changed)
        .route("MessagePosted", message_posted)
}

async fn chat_created(
    about: About,
    Data(chat): Data<ChatCreated>,
    State(store): State<Store>,
) -> Result {
    store.once(HANDLER, &about.id, |transaction| {
        let create = "INSERT OR IGNORE INTO chat (id, title) VALUES (?1, ?2)";
        transaction.execute(create, (&about.chat, chat.title))?;
        Ok(())
    })
}

async fn user_assigned(
    about: About,
    Data(task): Data<UserAssigned>,
    State(store): State<Store>,
) -> Result {
    store.once(HANDLER, &about.id, |transaction| {
        // A redriven event may be older than what is there; the newest counts.
        let assign = "UPDATE chat SET assignee = iif(assignee_at > ?3, assignee, ?2),
             assignee_at = max(assignee_at, ?3) WHERE id = ?1";
        let values = (&about.chat, task.user_id, about.at);
        require_chat(transaction.execute(assign, values)?, &about)
    })
}

async fn status_changed(
    about: About,
    Data(task): Data<StatusChanged>,
    State(store): State<Store>,
) -> Result {
    store.once(HANDLER, &about.id, |transaction| {
        let change = "UPDATE chat SET status = iif(status_at > ?3, status, ?2),
             status_at = max(status_at, ?3) WHERE id = ?1";
        let values = (&about.chat, task.status, about.at);
        require_chat(transaction.execute(change, values)?, &about)
    })
}

async fn message_posted(
    about: About,
    Data(_): Data<MessagePosted>,
    State(store): State<Store>,
) -> Result {
    store.once(HANDLER, &about.id, |transaction| {
        let count = "UPDATE chat SET messages = messages + 1 WHERE id = ?1";
        require_chat(transaction.execute(count, [&about.chat])?, &about)
    })
}

/// Fails where the chat is not there (yet): it will be when its own event was handled.
fn require_chat(rows: usize, about: &About) -> Result {
    match rows {
        0 => Err(format!("there is no chat `{}` yet", about.chat).into()),
        _ => Ok(()),
    }
}

/// A chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chat {
    /// What it is about.
    pub title: String,
    /// `open` until somebody says otherwise.
    pub status: String,
    /// Whose task it is.
    pub assignee: Option<String>,
    /// How many messages were posted.
    pub messages: u32,
}

/// One chat.
pub fn chat(store: &Store, id: &str) -> Result<Option<Chat>> {
    store.run(|db| {
        let one = "SELECT title, status, assignee, messages FROM chat WHERE id = ?1";
        let mut one = db.prepare_cached(one)?;
        let chat = one.query_row([id], |row| {
            Ok(Chat {
                title: row.get(0)?,
                status: row.get(1)?,
                assignee: row.get(2)?,
                messages: row.get(3)?,
            })
        });
        Ok(chat.optional()?)
    })
}
