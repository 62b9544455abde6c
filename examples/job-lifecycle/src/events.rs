//! What is said on the stream: five event types and their payloads. Ids, times and the name of the
//! source stand around them, in the wire form `job-lifecycle`.

use fanfare::Event;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

/// The stream that both services know.
pub const STREAM: &str = "source-events";

/// Everything about a source; the payload of `SOURCE_CREATED`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "SOURCE_CREATED")]
pub struct SourceDetails {
    /// For people.
    pub name: String,
    /// Where crawling begins.
    pub url: String,
    /// Pages per second.
    #[serde(default)]
    pub rate_limit: RateLimit,
    /// How many links from the first page the last one may be.
    #[serde(default = "default_depth")]
    pub max_depth: u32,
    /// Whether it is to be crawled.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What to look for in a page; the crawler's own business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selectors: Option<Value>,
    /// How soon and how often.
    #[serde(default)]
    pub priority: Priority,
}

/// Some members of [`SourceDetails`].
pub type Members = Map<String, Value>;

impl SourceDetails {
    /// The same with other values for these members. Members that nobody knows are skipped, and so is
    /// `null`, except where it means that there are no selectors.
    pub fn with(&self, members: &Members) -> serde_json::Result<Self> {
        let mut all = self.members();
        for (name, value) in members {
            if !value.is_null() || name == "selectors" {
                all.insert(name.clone(), value.clone());
            }
        }
        serde_json::from_value(Value::Object(all))
    }

    /// What differs in `next`, as an event; none where nothing does.
    pub fn change_to(&self, next: &Self) -> Option<SourceUpdated> {
        let (before, after) = (self.members(), next.members());
        let mut names: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
        names.sort();
        names.dedup();
        names.retain(|name| before.get(name) != after.get(name));
        let of = |members: &Members| -> Members {
            let value = |name: &String| members.get(name).cloned().unwrap_or(Value::Null);
            let shown = names.iter().map(|name| (name.clone(), value(name)));
            shown.collect()
        };
        let (previous, current) = (Some(of(&before)), Some(of(&after)));
        (!names.is_empty()).then_some(SourceUpdated {
            changed_fields: names,
            previous,
            current,
        })
    }

    fn members(&self) -> Members {
        match serde_json::to_value(self) {
            Ok(Value::Object(members)) => members,
            // A struct of plain members is an object.
            _ => Members::new(),
        }
    }
}

/// Existing publishers say less: no names, `previous` null. What counts is `current`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "SOURCE_UPDATED")]
pub struct SourceUpdated {
    /// The names of what changed.
    #[serde(default)]
    pub changed_fields: Vec<String>,
    /// What they were.
    pub previous: Option<Members>,
    /// What they are.
    #[serde(default, deserialize_with = "of_a_source")]
    pub current: Option<Members>,
}

/// Gone for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "SOURCE_DELETED")]
pub struct SourceDeleted {
    /// What it was called; existing publishers leave it empty.
    #[serde(default)]
    pub name: String,
    /// Such as `user_requested`.
    #[serde(default)]
    pub deletion_reason: String,
}

/// To be crawled from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "SOURCE_ENABLED")]
pub struct SourceEnabled(pub Option<Toggle>);

/// Not to be crawled until it is enabled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "SOURCE_DISABLED")]
pub struct SourceDisabled(pub Option<Toggle>);

/// Why, and by whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Toggle {
    /// For people.
    #[serde(default)]
    pub reason: String,
    /// Who did it.
    #[serde(default)]
    pub toggled_by: ToggledBy,
}

/// Who enabled or disabled a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToggledBy {
    /// A person.
    #[default]
    User,
    /// A program.
    System,
}

/// How soon and how often a source is crawled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Every three hours.
    Low,
    /// Every hour.
    #[default]
    Normal,
    /// Every half hour.
    High,
    /// Every quarter of an hour.
    Critical,
}

impl Priority {
    /// As a number that sorts.
    pub fn number(self) -> i32 {
        match self {
            Self::Low => 25,
            Self::Normal => 50,
            Self::High => 75,
            Self::Critical => 100,
        }
    }
}

/// Pages per second, written as a number, read also as `"10/s"`; 10 where it is missing or makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RateLimit(pub u32);

impl Default for RateLimit {
    fn default() -> Self {
        Self(10)
    }
}

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
            Value::String(text) => text.trim().trim_end_matches("/s").trim_end().parse().ok(),
            _ => None,
        };
        Ok(number.filter(|n| *n > 0).map_or_else(Self::default, Self))
    }
}

/// Members that a source can have.
fn of_a_source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Members>, D::Error> {
    let members = Option::<Members>::deserialize(deserializer)?;
    let any = serde_json::from_value::<SourceDetails>(json!({"name": "", "url": ""}));
    if let (Some(members), Ok(any)) = (&members, any) {
        any.with(members).map_err(D::Error::custom)?;
    }
    Ok(members)
}

fn default_depth() -> u32 {
    2
}

fn yes() -> bool {
    true
}
