//! One run over a site: pages over HTTP, no faster than asked, no deeper than asked, never away from
//! where it began.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use fanfare::core::clock::Clock;
use fanfare::core::timestamp::Timestamp;
use html5gum::{Token, Tokenizer};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};

use crate::Failure;

/// The most pages of one run.
const PAGES: usize = 1_000;
/// The most bytes read of one page.
const PAGE_BYTES: usize = 2 << 20;
/// How long one page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// A site that is being crawled.
#[derive(Debug)]
pub struct Crawl {
    client: Client,
    clock: Clock,
    first: Url,
    pause: Duration,
    max_depth: u32,
    /// When the next page may be fetched.
    not_before: Timestamp,
    seen: HashSet<Url>,
    /// Pages to fetch, and how many links they are from the first.
    open: VecDeque<(Url, u32)>,
    pages: u32,
}

impl Crawl {
    /// From this page, so many pages a second, so many links deep.
    pub fn new(url: &str, rate_limit: u32, max_depth: u32) -> Result<Self, Failure> {
        let first: Url = url.parse()?;
        let clock = Clock::system();
        Ok(Self {
            client: Client::builder().timeout(PAGE_LIMIT).build()?,
            not_before: clock.now(),
            clock,
            pause: Duration::from_secs(1) / rate_limit.max(1),
            max_depth,
            seen: HashSet::from([first.clone()]),
            open: VecDeque::from([(first.clone(), 0)]),
            first,
            pages: 0,
        })
    }

    /// Pages that were fetched.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Fetches the next page; false where there is none. A site whose first page cannot be had has
    /// failed; elsewhere a link may be dead.
    pub async fn next_page(&mut self) -> Result<bool, Failure> {
        let Some((url, depth)) = self.open.front().cloned() else {
            return Ok(false);
        };
        self.clock.sleep_until(self.not_before).await;
        let fetched = self.fetch(&url).await;
        self.not_before = self.clock.now() + self.pause;
        match fetched {
            Ok((at, html)) => {
                self.pages += 1;
                if depth < self.max_depth {
                    self.note_links(&at, &html, depth + 1);
                }
            }
            Err(error) if depth == 0 => return Err(error),
            Err(error) => tracing::debug!(%url, %error, "a dead link"),
        }
        // Only now: whoever stopped waiting for a page may ask for it again.
        self.open.pop_front();
        Ok(true)
    }

    /// Where it was in the end, and its HTML; empty where it is something else.
    async fn fetch(&self, url: &Url) -> Result<(Url, Vec<u8>), Failure> {
        let mut response = self
            .client
            .get(url.clone())
            .send()
            .await?
            .error_for_status()?;
        let kind = response.headers().get(CONTENT_TYPE);
        let is_html = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        let mut html = Vec::new();
        while is_html && html.len() < PAGE_BYTES {
            let Some(chunk) = response.chunk().await? else {
                break;
            };
            html.extend_from_slice(&chunk);
        }
        Ok((response.url().clone(), html))
    }

    fn note_links(&mut self, at: &Url, html: &[u8], depth: u32) {
        for link in links(html) {
            let Ok(mut url) = at.join(&link) else {
                continue;
            };
            url.set_fragment(None);
            let ours = url.origin() == self.first.origin() && at.origin() == self.first.origin();
            if ours && self.seen.len() < PAGES && self.seen.insert(url.clone()) {
                self.open.push_back((url, depth));
            }
        }
    }
}

/// What the anchors of a page refer to.
fn links(html: &[u8]) -> impl Iterator<Item = String> {
    Tokenizer::new(html).filter_map(|token| match token {
        Ok(Token::StartTag(mut tag)) if *tag.name == b"a" => {
            let href = tag.attributes.remove(&b"href"[..])?;
            String::from_utf8(href.to_vec()).ok()
        }
        _ => None,
    })
}
