//! `/`: one page for people: is it well, what does it hold, how do its subscriptions stand. It is
//! written on the server and runs no script; the dashboard will take its place.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use fanfare::core::admin::{StreamStats, SubscriptionInfo};

use crate::app::App;
use crate::http::problem::Problem;
use crate::http::route::Route;

const STYLE: &str = include_str!("status_page/style.css");
const HEAD: &str = include_str!("status_page/head.html");
const FOOT: &str = include_str!("status_page/foot.html");

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/", page).about("The status page").answer_as(
            200,
            "A page for people",
            "text/html",
            None,
        ),
        Route::get("/assets/style.css", style)
            .about("The style of the status page")
            .answer_as(200, "The style sheet", "text/css", None),
    ]
}

async fn style() -> Response {
    let media_type = HeaderValue::from_static("text/css; charset=utf-8");
    ([(header::CONTENT_TYPE, media_type)], STYLE).into_response()
}

async fn page(State(app): State<App>) -> Result<Response, Problem> {
    let admin = app.backend().admin();
    let health = admin.health().await;
    let stream = admin.stats().await.unwrap_or_default();
    let subscriptions = admin.list().await.unwrap_or_default();
    let mut page = String::from(HEAD);
    let (class, word) = match (health.ok, app.draining().is_cancelled()) {
        (_, true) => ("warn", "shutting down"),
        (true, false) => ("good", "all is well"),
        (false, false) => ("bad", "the backend fails"),
    };
    let backend = app.backend().capabilities().backend;
    let version = env!("CARGO_PKG_VERSION");
    // Writing into a string cannot fail.
    let _ = write!(
        page,
        "<p class=\"state {class}\">{word}</p>\n\
         <p class=\"muted\">Fanfare {version} on {} · {}</p>\n",
        escape(backend),
        escape(&health.detail)
    );
    figures(&mut page, &app, stream, &subscriptions);
    table(&mut page, &subscriptions);
    page.push_str(FOOT);
    let media_type = HeaderValue::from_static("text/html; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, media_type)], page).into_response())
}

fn figures(page: &mut String, app: &App, stream: StreamStats, all: &[SubscriptionInfo]) {
    let stats = app.bus().stats();
    let sum = |read: fn(&SubscriptionInfo) -> u64| all.iter().map(read).sum::<u64>();
    let figures = [
        ("events kept", stream.events),
        ("published since start", stats.published),
        ("waiting", sum(|info| info.counts.waiting)),
        ("in flight", sum(|info| info.counts.in_flight)),
        ("dead letters", sum(|info| info.counts.dead)),
    ];
    page.push_str("<dl>\n");
    for (name, value) in figures {
        let _ = writeln!(
            page,
            "<div><dt>{name}</dt><dd>{}</dd></div>",
            grouped(value)
        );
    }
    page.push_str("</dl>\n");
}

fn table(page: &mut String, all: &[SubscriptionInfo]) {
    page.push_str("<h2>Subscriptions</h2>\n");
    if all.is_empty() {
        page.push_str(
            "<p class=\"muted\">None yet: <code>PUT /v1/subscriptions/{name}</code> makes one.</p>\n",
        );
        return;
    }
    page.push_str(
        "<table><thead><tr><th>name</th><th>patterns</th><th>state</th><th class=\"n\">waiting</th>\
         <th class=\"n\">in flight</th><th class=\"n\">dead</th><th class=\"n\">acknowledged</th>\
         </tr></thead><tbody>\n",
    );
    for info in all {
        let counts = info.counts;
        let state = if info.paused { "paused" } else { "active" };
        let dead = if counts.dead > 0 { "n bad" } else { "n" };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td><code>{}</code></td><td>{state}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"{dead}\">{}</td><td class=\"n\">{}</td></tr>",
            escape(info.spec.name.as_str()),
            escape(&info.spec.patterns.to_string()),
            grouped(counts.waiting),
            grouped(counts.in_flight),
            grouped(counts.dead),
            grouped(counts.acknowledged),
        );
    }
    page.push_str("</tbody></table>\n");
}

/// 1234567 as 1 234 567, with spaces that do not break.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_grouped_and_text_is_escaped() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped(0), "0");
        assert_eq!(escape("<b>&\""), "&lt;b&gt;&amp;&quot;");
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        for part in [HEAD, FOOT] {
            assert!(!part.contains("<script") && !part.contains("<style"));
            assert!(!part.contains("style=") && !part.contains(" on"));
        }
    }
}
