//! What the tests of chats share: messages of every kind and size, and what is checked of bodies.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use sysops_agent::model::{Alert, Labels, Message, News, Place, Severity, Status, Tally};
use sysops_agent::notifiers::{Accepted, Channel, SendError};

use super::golden::{cases, grouped, hostile, huge};
use super::{alert, oom, sender};

/// Every case of the golden files, and the largest and oddest there can be, each in every place.
pub fn everything() -> Vec<(String, Message)> {
    let mut all: Vec<(String, Message)> = cases().into_iter().map(|(name, message)| (name.to_owned(), message)).collect();
    for (name, alert, count) in [("huge", huge(), 12), ("odd", odd(), 200), ("crowded", crowded(), 200)] {
        all.push((name.to_owned(), Message::of(alert.clone().into())));
        all.push((format!("{name} group"), group_of(&alert, count)));
    }
    all.extend((0..24).map(|seed| (format!("noise {seed}"), Message::of(noise(seed).into()))));
    let in_place = |place: fn() -> Place| {
        let place = move |(name, message): &(String, Message)| {
            (format!("{name} {:?}", place()), Message { place: place(), ..message.clone() })
        };
        all.iter().map(place).collect::<Vec<_>>()
    };
    let replaced = in_place(|| Place::Replace("12345".into()));
    let answered = in_place(|| Place::Answer("12345".into()));
    all.into_iter().chain(replaced).chain(answered).collect()
}

/// Nothing in it where something is usual, blanks where there is something.
fn odd() -> Alert {
    Alert {
        message: "  ".into(),
        labels: Labels::new().with("", "").with("blank", " ").with("zero", "\u{200b}"),
        evidence: [("".to_owned(), Value::Null), ("e".to_owned(), "".into()), ("l".to_owned(), vec![""; 3].into())]
            .into_iter()
            .collect(),
        value: f64::NAN,
        ..alert(Severity::Emergency)
    }
}

/// Very many small things.
fn crowded() -> Alert {
    let mut crowded = Alert { message: "x".into(), ..oom() };
    for number in 0..150 {
        crowded.labels.set(format!("label_{number}"), number.to_string());
        crowded.evidence.insert(format!("fact_{number}"), number.into());
        crowded.evidence.insert(format!("list_{number}"), vec!["`"; 20].into());
    }
    crowded
}

/// What markup is made of, in any order and length; the same for the same seed.
fn noise(seed: u64) -> Alert {
    const PARTS: [&str; 28] = [
        "\\",
        "`",
        "```",
        "*",
        "_",
        "__",
        "~",
        "||",
        "<",
        ">",
        "&",
        "&amp;",
        "</pre>",
        "<b>",
        "[",
        "](",
        ")",
        "@everyone",
        "<!here>",
        "#",
        "-",
        ".",
        "\n",
        " ",
        "x",
        "ä",
        "𝄞",
        "{{",
    ];
    let mut state = seed;
    let mut text = |length: u64| -> String {
        let part = |_| {
            // A linear congruential generator with Knuth's constants, of which the high bits are good.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            PARTS[usize::try_from(state >> 33).unwrap() % PARTS.len()]
        };
        (0..length).map(part).collect()
    };
    let mut noise = alert(Severity::ALL[usize::try_from(seed).unwrap() % Severity::ALL.len()]);
    noise.message = text(seed * 20);
    noise.labels = Labels::new();
    for number in 0..seed {
        noise.labels.set(text(6), text(number * 3));
        noise.evidence.insert(text(6), text(number * 10).into());
        noise.evidence.insert(text(6), vec![text(40); usize::try_from(number).unwrap()].into());
    }
    noise
}

/// As many alerts as one may gather, of everything.
fn group_of(alert: &Alert, count: usize) -> Message {
    let news = (0..count).map(|number| {
        let severity = Severity::ALL[number % Severity::ALL.len()];
        let status = if number % 7 == 3 { Status::Resolved } else { Status::Firing };
        let alert = Alert { id: format!("i-{number}"), severity, status, ..alert.clone() };
        News { alert: Arc::new(alert), previous: None, superseded: 1 }
    });
    let tallies = (0..300).map(|number| Tally { severity: Severity::Warn, metric: format!("metric_{number}`*<@&1>"), count: 3 });
    Message { news: news.collect(), tallies: tallies.collect(), late: Some(Duration::from_secs(9999)), ..grouped() }
}

/// An incident as a channel is told of it: begins as a warning, changes, gets worse, is over.
pub struct Told {
    first: Alert,
}

impl Told {
    pub fn new() -> Self {
        Self { first: alert(Severity::Warn) }
    }

    pub fn begins(&self) -> Message {
        Message::of(self.first.clone().into())
    }

    pub fn changes(&self, place: Place) -> Message {
        self.then(Status::Updated, Severity::Warn, Severity::Warn, place)
    }

    pub fn worsens(&self, place: Place) -> Message {
        self.then(Status::Updated, Severity::Critical, Severity::Warn, place)
    }

    pub fn ends(&self, place: Place) -> Message {
        self.then(Status::Resolved, Severity::Critical, Severity::Critical, place)
    }

    fn then(&self, status: Status, severity: Severity, before: Severity, place: Place) -> Message {
        let now: Arc<Alert> = Alert { status, severity, delivery: "d-2".into(), ..self.first.clone() }.into();
        let previous = Some(Alert { severity: before, ..self.first.clone() }.into());
        Message { place, news: vec![News { alert: Arc::clone(&now), previous, superseded: 0 }], ..Message::of(now) }
    }
}

/// Renders and sends once.
pub async fn tell(channel: &Channel, message: &Message) -> Result<Accepted, SendError> {
    channel.notifier.send(&channel.notifier.render(message, &sender())).await
}

/// An alert that tries everything, of a severity that calls somebody.
pub fn hostile_call() -> Message {
    Message::of(Alert { severity: Severity::Critical, ..hostile() }.into())
}

/// The object, if it holds no other keys than these.
pub fn object<'a>(value: &'a Value, keys: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object().ok_or_else(|| format!("no object: {value}"))?;
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown key {key}")),
        None => Ok(object),
    }
}

/// A text of at least one visible character and at most `max` UTF-16 code units.
pub fn text(value: &Value, max: usize) -> Result<&str, String> {
    let text = value.as_str().ok_or_else(|| format!("no text: {value}"))?;
    let length = text.encode_utf16().count();
    if text.trim().is_empty() || length > max {
        return Err(format!("{length} characters, from 1 to {max}: {text:?}"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(format!("control characters: {text:?}"));
    }
    Ok(text)
}

/// A list of at most `max`.
pub fn list(value: &Value, max: usize) -> Result<&[Value], String> {
    let list = value.as_array().ok_or_else(|| format!("no list: {value}"))?;
    if list.len() > max { Err(format!("{} elements, at most {max}", list.len())) } else { Ok(list) }
}
