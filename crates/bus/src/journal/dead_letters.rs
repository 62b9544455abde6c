//! Dead letters of both sides as one list: the log's first, then the broker's, whose ids begin with
//! `broker-` because both sides may use the same.

use async_trait::async_trait;
use fanfare_core::Result;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};

use super::Journal;

const BROKER: &str = "broker-";

impl Journal {
    /// Whose letter it is, and its id there.
    fn side<'a>(&self, id: &'a str) -> (&dyn DeadLetters, &'a str, bool) {
        match id.strip_prefix(BROKER) {
            Some(id) => (self.source.dead_letters(), id, true),
            None => (self.log.dead_letters(), id, false),
        }
    }

    /// A selection for each side, the log's first; none where it means nothing there.
    fn sides<'a>(&'a self, selection: &Selection) -> Vec<(&'a dyn DeadLetters, Selection)> {
        let (log, broker) = match selection {
            Selection::Filter(_) => (selection.clone(), selection.clone()),
            Selection::Ids(ids) => {
                let broker = ids.iter().filter_map(|id| id.strip_prefix(BROKER));
                let log = ids.iter().filter(|id| !id.starts_with(BROKER));
                (
                    Selection::Ids(log.cloned().collect()),
                    Selection::Ids(broker.map(str::to_owned).collect()),
                )
            }
        };
        let both = [
            (self.log.dead_letters(), log),
            (self.source.dead_letters(), broker),
        ];
        let meant = |(_, of): &(_, Selection)| !matches!(of, Selection::Ids(ids) if ids.is_empty());
        both.into_iter().filter(meant).collect()
    }

    async fn broker_page(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        let letters = self.source.dead_letters();
        let page = letters.list(filter, after, limit).await?;
        Ok(DeadLetterPage {
            items: page.items.into_iter().map(of_broker).collect(),
            next: page.next.map(|next| format!("{BROKER}{next}")),
        })
    }
}

fn of_broker(letter: DeadLetter) -> DeadLetter {
    let id = format!("{BROKER}{}", letter.id);
    DeadLetter { id, ..letter }
}

#[async_trait]
impl DeadLetters for Journal {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        if let Some(after) = after.and_then(|after| after.strip_prefix(BROKER)) {
            return self.broker_page(filter, Some(after), limit).await;
        }
        let mut page = self.log.dead_letters().list(filter, after, limit).await?;
        if page.next.is_none() {
            // Asked even where there is no room: otherwise nobody would come back for them.
            let room = limit - page.items.len().min(limit);
            let more = self.broker_page(filter, None, room.max(1)).await?;
            if room > 0 {
                page.items.extend(more.items);
                page.next = more.next;
            } else if !more.items.is_empty() {
                page.next = page.items.last().map(|last| last.id.clone());
            }
        }
        Ok(page)
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        let (letters, id, broker) = self.side(id);
        let letter = letters.get(id).await?;
        Ok(if broker { of_broker(letter) } else { letter })
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        let mut all = 0;
        for (letters, selection) in self.sides(selection) {
            all += letters.count(&selection).await?;
        }
        Ok(all)
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        let mut all = Acted::default();
        for (letters, selection) in self.sides(selection) {
            let left = limit.saturating_sub(usize::try_from(all.done).unwrap_or(limit));
            if left == 0 {
                all.matched += letters.count(&selection).await?;
                continue;
            }
            let acted = letters.redrive(&selection, left).await?;
            all.matched += acted.matched;
            all.done += acted.done;
        }
        Ok(all)
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        let mut all = Acted::default();
        for (letters, selection) in self.sides(selection) {
            let acted = letters.discard(&selection).await?;
            all.matched += acted.matched;
            all.done += acted.done;
        }
        Ok(all)
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        let (letters, id, broker) = self.side(id);
        let letter = letters.replace(id, data).await?;
        Ok(if broker { of_broker(letter) } else { letter })
    }
}
