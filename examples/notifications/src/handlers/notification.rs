//! Everyone in the chat but whoever did it gets a line about it. Types without a route are skipped.

use fanfare::prelude::*;
use rusqlite::Transaction;
use serde::Serialize;

use crate::events::{About, ChatCreated, MessagePosted, StatusChanged, UserAssigned};
use crate::{Result, Store};

const HANDLER: &str = "notification";

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
        for user in chat.participants.iter().chain([&about.by]) {
            join(transaction, &about, user)?;
        }
        notify(transaction, &about, "ChatCreated", "New chat", &chat.title)
    })
}

async fn user_assigned(
    about: About,
    Data(task): Data<UserAssigned>,
    State(store): State<Store>,
) -> Result {
    store.once(HANDLER, &about.id, |transaction| {
        let user = &task.user_id;
        require_known(transaction, &about)?;
        join(transaction, &about, user)?;
        notify(
            transaction,
            &about,
            "TaskAssigned",
            "New task assigned",
            user,
        )
    })
}

async fn status_changed(
    about: About,
    Data(task): Data<StatusChanged>,
    State(store): State<Store>,
) -> Result {
    store.once(HANDLER, &about.id, |transaction| {
        let status = &task.status;
        require_known(transaction, &about)?;
        notify(
            transaction,
            &about,
            "StatusChanged",
            "Status changed",
            status,
        )
    })
}

async fn message_posted(
    about: About,
    Data(message): Data<MessagePosted>,
    State(store): State<Store>,
) -> Result {
    store.once(HANDLER, &about.id, |transaction| {
        let text = &message.text;
        require_known(transaction, &about)?;
        notify(transaction, &about, "MessagePosted", "New message", text)
    })
}

/// The chat's own event may still be on its way, or a dead letter: then this one is tried again,
/// and becomes one too.
fn require_known(transaction: &Transaction<'_>, about: &About) -> Result {
    let known = "SELECT EXISTS (SELECT 1 FROM member WHERE chat = ?1)";
    if transaction.query_row(known, [&about.chat], |row| row.get(0))? {
        return Ok(());
    }
    Err(format!("nobody is in chat `{}` yet", about.chat).into())
}

fn join(transaction: &Transaction<'_>, about: &About, user: &str) -> Result {
    if !user.is_empty() {
        let join = "INSERT OR IGNORE INTO member (chat, user) VALUES (?1, ?2)";
        transaction.execute(join, (&about.chat, user))?;
    }
    Ok(())
}

fn notify(
    transaction: &Transaction<'_>,
    about: &About,
    kind: &str,
    title: &str,
    text: &str,
) -> Result {
    let notify = "INSERT INTO notification (event, recipient, type, title, text, link)
         SELECT ?1, user, ?2, ?3, ?4, ?5 FROM member WHERE chat = ?6 AND user <> ?7";
    let (event, link) = (about.id.to_string(), format!("/chats/{}", about.chat));
    transaction.execute(
        notify,
        (event, kind, title, text, link, &about.chat, &about.by),
    )?;
    Ok(())
}

/// What a user reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// The event that it is about.
    pub event: String,
    /// What kind of notification.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub title: String,
    /// For people, more of it.
    pub text: String,
    /// Where to look.
    pub link: String,
}

/// All of a user's, the oldest first.
pub fn of_user(store: &Store, user: &str) -> Result<Vec<Notification>> {
    store.run(|db| {
        let all = "SELECT event, type, title, text, link FROM notification
             WHERE recipient = ?1 ORDER BY number";
        let mut all = db.prepare_cached(all)?;
        let all = all.query_map([user], |row| {
            Ok(Notification {
                event: row.get(0)?,
                kind: row.get(1)?,
                title: row.get(2)?,
                text: row.get(3)?,
                link: row.get(4)?,
            })
        })?;
        Ok(all.collect::<Result<_, _>>()?)
    })
}
