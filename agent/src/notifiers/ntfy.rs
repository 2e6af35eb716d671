//! ntfy: a notification on phones and desktops that subscribe to a topic.
//!
//! Each message carries a sequence id, under which a later one takes its place (ntfy 2.16; an older server ignores it and shows another
//! notification), and under which one that is sent again is no second one. What takes another's place makes no sound.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde_json::{Map, Value, json};

use super::card::{Card, brief, clip_lines, counts, host, remarks, time, title};
use super::http::{Answer, Clients, Endpoint, TIMEOUT, log_in};
use super::template::{Escape, Template};
use super::text::{clip, escape};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, Login};
use crate::model::{Alert, Message, Place, Severity, Status};

pub(super) const ROW: Row = Row {
    name: "ntfy",
    summary: "an ntfy topic",
    build: |config, clients| {
        let Some(ntfy) = &config.alerting.ntfy else { return Ok(None) };
        let template = Template::of(config, ROW.name);
        let notifier = Ntfy::new(ntfy, clients, template).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: ntfy.severities,
            retry: RETRY,
            updates: Updates::InPlace,
            refresh: None,
            is_screen: false,
        }))
    },
};

/// Longest message in bytes ("Limitations"); a longer one becomes an attachment.
const MESSAGE_MAX: usize = 4096;
/// Longest title in bytes: what a phone shows. Since 2.28 a server refuses one of more than 1 KB.
const TITLE_MAX: usize = 250;
/// Longest body: the server reads twice the length of a message. Of that, the topic takes up to 64 bytes and its name.
const BODY_MAX: usize = 2 * MESSAGE_MAX - 128;
/// Longest sequence id, in bytes.
const SEQUENCE_MAX: usize = 64;
/// Wait after 429, which names none: requests come back one in five seconds, messages by the day ("Limitations").
const THROTTLED: Duration = Duration::from_secs(60);
const EXHAUSTED: Duration = Duration::from_secs(600);
/// The error code of a day's messages that are used up.
const TOO_MANY_MESSAGES: u64 = 42908;

struct Ntfy {
    endpoint: Endpoint,
    /// Where JSON is published: the topic's parent.
    server: Url,
    topic: String,
    login: Login,
    template: Option<Template>,
}

impl Ntfy {
    fn new(ntfy: &config::Ntfy, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let endpoint = Endpoint::new(clients, "alerting.ntfy.url", &ntfy.url, TIMEOUT)?;
        let mut server = endpoint.url().clone();
        let topic = server.path().rsplit('/').next().unwrap_or_default().to_owned();
        if let Ok(mut path) = server.path_segments_mut() {
            path.pop();
        }
        Ok(Self { endpoint, server, topic, login: ntfy.login.clone(), template })
    }

    async fn post(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let unreadable = |error| SendError::Permanent { reason: format!("the rendered message cannot be read: {error}") };
        let mut body: Map<String, Value> = serde_json::from_slice(&message.text()).map_err(unreadable)?;
        // Only here: what is rendered may be kept on disk.
        body.insert("topic".into(), self.topic.as_str().into());
        let body = serde_json::to_vec(&body).map_err(unreadable)?;
        let request = self.endpoint.json(Method::POST, self.server.clone(), body.into());
        let answer = self.endpoint.call(log_in(request, &self.login)).await?;
        self.judge(&answer)?;
        // What is called for has a notification of its own, and the first stays the one to be changed.
        let reference = (message.place == Place::New).then(|| sequence_id(&message.delivery));
        let id = answer.json()["id"].as_str().map(|id| format!(": message {}", escape(&clip(id, 64)))).unwrap_or_default();
        Ok(Accepted { reference, answer: format!("HTTP {}{id}", answer.status) })
    }

    fn judge(&self, answer: &Answer) -> Result<(), SendError> {
        let said = answer.json();
        let origin = self.endpoint.origin();
        let status = answer.status;
        let error = said["error"].as_str().map(|text| format!(" ({})", escape(&clip(text, 200)))).unwrap_or_default();
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                let wait = if said["code"] == TOO_MANY_MESSAGES { EXHAUSTED } else { THROTTLED };
                Err(SendError::Retry {
                    reason: format!("{origin} answered {status}{error}"),
                    after: Some(answer.after.unwrap_or(wait)),
                })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let advice = "check the login in [alerting.ntfy] and that it may write to the topic";
                Err(SendError::Permanent { reason: format!("{origin} answered {status}{error}; {advice}") })
            }
            StatusCode::BAD_REQUEST => Err(SendError::Permanent {
                reason: format!("{origin} answered {status}{error}; check the topic in alerting.ntfy.url"),
            }),
            _ => self.endpoint.judge(answer),
        }
    }
}

impl Notifier for Ntfy {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let Some(lead) = message.lead() else { return Rendered::of(message, "") };
        let (title, text) = if message.is_group() {
            (format!("{}: {}", escape(&sender.hostname), counts(message)), listed(message, lead, sender))
        } else {
            (title(lead, sender), Card::of(lead, sender).text(&remarks(message), MESSAGE_MAX))
        };
        let templated = self.template.as_ref().and_then(|template| template.render(message, sender, Escape::Text(str::to_owned)));
        let text = templated.unwrap_or(text);
        let sequence = match &message.place {
            Place::Replace(reference) => reference.clone(),
            Place::New | Place::Answer(_) => sequence_id(&message.delivery),
        };
        let mut body = json!({
            "title": clip(&title, TITLE_MAX),
            "priority": priority(lead, &message.place),
            "tags": [tag(lead), lead.severity.as_str()],
            "sequence_id": sequence,
        });
        // Line breaks and quotes take two bytes in JSON.
        let mut max = MESSAGE_MAX;
        loop {
            body["message"] = clip_lines(&text, max).into();
            let rendered = body.to_string();
            if rendered.len() <= BODY_MAX || max < TITLE_MAX {
                return Rendered::of(message, rendered);
            }
            max -= max / 8;
        }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.post(message))
    }
}

/// A line for each alert.
fn listed(message: &Message, lead: &Alert, sender: &Sender) -> String {
    let mut text = String::new();
    for alert in message.alerts() {
        let _ = writeln!(text, "{}", brief(alert));
    }
    for line in remarks(message) {
        let _ = writeln!(text, "{line}");
    }
    let _ = write!(text, "\nTime: {}\nHost: {}", time(lead, sender), host(sender));
    text
}

/// 5 rings loudest, from 3 on there is a sound, 2 has none ("Message priority").
fn priority(lead: &Alert, place: &Place) -> u8 {
    if lead.status == Status::Resolved || matches!(place, Place::Replace(_)) {
        return 2;
    }
    match lead.severity {
        Severity::Info => 2,
        Severity::Warn => 3,
        Severity::Critical => 4,
        Severity::Emergency => 5,
    }
}

/// A name that is shown as a picture ("Tags & emojis").
fn tag(lead: &Alert) -> &'static str {
    match (lead.status, lead.severity) {
        (Status::Resolved, _) => "white_check_mark",
        (_, Severity::Info) => "information_source",
        (_, Severity::Warn) => "warning",
        (_, Severity::Critical) => "red_circle",
        (_, Severity::Emergency) => "rotating_light",
    }
}

/// The delivery as letters, digits, `-` and `_`, where need be by its digest.
fn sequence_id(delivery: &str) -> String {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if (1..=SEQUENCE_MAX).contains(&delivery.len()) && delivery.bytes().all(is_valid) {
        return delivery.to_owned();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, delivery.as_bytes());
    digest.as_ref().iter().take(20).fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_ids_are_valid_and_stay_apart() {
        assert_eq!(sequence_id("00c0ffee-1"), "00c0ffee-1");
        // `printf a+b | sha256sum`
        assert_eq!(sequence_id("a+b"), "300273daf0bb57c239f83585d71ced54ce6b3b5f");
        assert_ne!(sequence_id("a+b"), sequence_id("a b"));
        for delivery in ["", "ä", &"x".repeat(65)] {
            assert_eq!(sequence_id(delivery).len(), 40, "{delivery}");
        }
    }
}
