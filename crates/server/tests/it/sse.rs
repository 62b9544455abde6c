//! Reads server-sent events as a client does.

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::harness::PATIENCE;

/// An open stream.
pub(crate) struct Stream {
    response: Response,
    text: String,
    /// Comments seen so far.
    pub(crate) comments: usize,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Stream {
    /// Opens a stream; it must begin.
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
            comments: 0,
        }
    }

    /// The next message; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if let Some(message) = Message::parse(&block) {
                    return Some(message);
                }
            }
            if !self.read_more().await {
                assert_eq!(self.text, "", "the stream ends between messages");
                return None;
            }
        }
    }

    /// Reads what comes; false at the end.
    pub(crate) async fn read_more(&mut self) -> bool {
        let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
        let Some(chunk) = chunk.unwrap().unwrap() else {
            return false;
        };
        let text = std::str::from_utf8(&chunk).unwrap();
        self.comments += text.lines().filter(|line| line.starts_with(':')).count();
        self.text.push_str(text);
        true
    }

    /// The event ids of the next `n` messages.
    pub(crate) async fn ids(&mut self, n: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < n {
            let message = self.next().await.unwrap();
            assert_eq!(message.event, "message");
            ids.push(message.data["event"]["id"].as_str().unwrap().to_owned());
        }
        ids
    }
}

impl Message {
    /// A block of lines; none where it holds no data.
    fn parse(block: &str) -> Option<Self> {
        let (mut event, mut id, mut data) = ("message".to_owned(), String::new(), Vec::new());
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut event),
                Some(("id", value)) => value.clone_into(&mut id),
                Some(("data", value)) => data.push(value),
                _ => {}
            }
        }
        let data = serde_json::from_str(&data.join("\n")).ok()?;
        Some(Self { event, id, data })
    }
}
