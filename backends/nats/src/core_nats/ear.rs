//! The ear of this process: one subscription of NATS to the whole stream, which the client asks for again
//! when it is connected again. It never waits for anybody: who has no room loses the event alone.

use std::sync::Arc;

use async_nats::Subscriber;
use fanfare_core::error::{Error, ErrorKind, Result};
use futures::StreamExt as _;

use super::room::Room;

/// Begins to listen.
pub(super) async fn start(room: &Arc<Room>) -> Result<()> {
    let wire = &room.wire;
    let heard = wire.client.subscribe(wire.names.live()).await;
    let heard = heard.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "the nats client ended").because(error)
    })?;
    tokio::spawn(listen(room.clone(), heard));
    Ok(())
}

/// Until the backend is closed.
async fn listen(room: Arc<Room>, mut heard: Subscriber) {
    let names = &room.wire.names;
    let mark = names.mark(room.wire.who);
    let mut line = room.wire.line();
    let mut closed = room.closed.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            () = line.changed() => {
                if let Some(why) = line.missed() {
                    room.tell_gap(why);
                }
            }
            message = heard.next() => {
                let Some(message) = message else {
                    return;
                };
                if let Some(event_type) = names.of_live(&message.subject) {
                    room.take(&event_type, &message.payload);
                } else if *message.subject == *mark {
                    room.hear_mark(&message.payload);
                }
            }
        }
    }
}
