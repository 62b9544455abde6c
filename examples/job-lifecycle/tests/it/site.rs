//! A small site on loopback that remembers what was asked of it, and when.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Html;
use axum::routing::get;
use fanfare::core::clock::Clock;
use fanfare::core::timestamp::Timestamp;

/// Page `n` links to `2n` and `2n + 1`, to itself, to a page that is not there and away from the site.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<(u64, Timestamp)>>>,
    clock: Clock,
}

impl Site {
    pub(super) async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Self {
            url: format!("http://{}/pages/1", listener.local_addr().unwrap()),
            asked: Arc::default(),
            clock: Clock::system(),
        };
        let router = Router::new()
            .route("/pages/{n}", get(page))
            .with_state(site.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        site
    }

    /// The pages that were asked for, in order.
    pub(super) fn asked(&self) -> Vec<(u64, Timestamp)> {
        self.asked.lock().unwrap().clone()
    }
}

async fn page(State(site): State<Site>, Path(n): Path<u64>) -> Html<String> {
    site.asked.lock().unwrap().push((n, site.clock.now()));
    let (left, right) = (2 * n, 2 * n + 1);
    Html(format!(
        "<!doctype html><p><a href='/pages/{left}'>left</a> <A HREF=\"{right}#part\">right</A>\
         <a href='/pages/{n}'>here</a> <a href='/missing'>dead</a> <a name=x>no link</a>\
         <a href='http://127.0.0.1:1/pages/999'>away</a> <!-- <a href='/pages/998'>hidden</a> -->"
    ))
}
