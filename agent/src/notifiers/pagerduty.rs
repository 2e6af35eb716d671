//! PagerDuty, through its Events API v2: one event an alert, under the incident's id as deduplication key.
//!
//! `trigger` opens an alert or, while it is open, adds to its log, so that an update calls nobody twice; `resolve` ends it. Both
//! `critical` and `emergency` are PagerDuty's `critical`, which is its worst; the details say which.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::card::{Card, Lines, remarks, sentence, title};
use super::http::{Answer, Clients, Endpoint, Parts, TIMEOUT};
use super::template::Template;
use super::text::{clip, escape, rfc3339};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, Secret};
use crate::model::{Alert, Message, News, Severity, Status};

pub(super) const ROW: Row = Row {
    name: "pagerduty",
    summary: "PagerDuty's Events API v2",
    build: |config, clients| {
        let Some(pagerduty) = &config.alerting.pagerduty else { return Ok(None) };
        let template = Template::of(config, ROW.name);
        let notifier = Pagerduty::new(pagerduty, clients, template).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: pagerduty.severities,
            retry: RETRY,
            updates: Updates::Separate,
            refresh: None,
            is_screen: false,
        }))
    },
};

/// Limits of "Send an Alert Event", in characters; bytes here, which are never fewer.
const SUMMARY_MAX: usize = 1024;
const DEDUP_KEY_MAX: usize = 255;
/// Most text of details, in bytes: far from the 512 KB that an event may have, and more than anybody reads on a phone.
const DETAILS_MAX: usize = 64 * 1024;
/// Longest name of a source, component or group, in bytes.
const NAME_MAX: usize = 255;
/// Wait after 429 where the answer names none: "preferably with a backoff of a few minutes".
const THROTTLED: Duration = Duration::from_secs(120);
/// Labels that name a part of the machine, the most telling first.
const COMPONENTS: [&str; 6] = ["mount", "device", "interface", "cgroup", "unit", "comm"];

struct Pagerduty {
    endpoint: Endpoint,
    routing_key: Secret,
    template: Option<Template>,
}

impl Pagerduty {
    fn new(pagerduty: &config::Pagerduty, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let endpoint = Endpoint::new(clients, "alerting.pagerduty.api_url", &pagerduty.api_url, TIMEOUT)?;
        Ok(Self { endpoint, routing_key: pagerduty.routing_key.clone(), template })
    }

    async fn post(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let mut parts = Parts::default();
        for part in &message.parts {
            parts.note(self.event(part).await)?;
        }
        parts.verdict()
    }

    async fn event(&self, part: &Bytes) -> Result<Answer, SendError> {
        let unreadable = |error| SendError::Permanent { reason: format!("the rendered message cannot be read: {error}") };
        let mut event: Map<String, Value> = serde_json::from_slice(part).map_err(unreadable)?;
        // Only here: what is rendered may be kept on disk.
        event.insert("routing_key".into(), self.routing_key.reveal().into());
        let body = serde_json::to_vec(&event).map_err(unreadable)?;
        let url = self.endpoint.below(&["v2", "enqueue"]);
        let request = self.endpoint.json(Method::POST, url, body.into());
        let answer = self.endpoint.call(request).await?;
        match answer.status {
            StatusCode::BAD_REQUEST => Err(SendError::Permanent { reason: self.invalid(&answer) }),
            StatusCode::TOO_MANY_REQUESTS => {
                let reason = format!("{} answered {}", self.endpoint.origin(), answer.status);
                Err(SendError::Retry { reason, after: Some(answer.after.unwrap_or(THROTTLED)) })
            }
            _ => self.endpoint.judge(&answer).map(|()| answer),
        }
    }

    /// What it finds invalid, in its own words.
    fn invalid(&self, answer: &Answer) -> String {
        let answered = answer.json();
        let errors = answered["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let errors = errors.collect::<Vec<_>>().join("; ").replace(self.routing_key.reveal(), "***");
        let said = if errors.is_empty() { String::new() } else { format!(" ({})", escape(&clip(&errors, 300))) };
        let origin = self.endpoint.origin();
        format!("{origin} refuses the event as invalid{said}; check alerting.pagerduty.routing_key, a key of the Events API v2")
    }
}

impl Notifier for Pagerduty {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let remarks = remarks(message);
        let part = |news: &News| {
            let mut event = event(&news.alert, &remarks, sender);
            let text = self.template.as_ref().and_then(|template| template.plain(&news.alert, sender));
            if let (Some(text), Some(payload)) = (text, event.get_mut("payload")) {
                // It becomes a title.
                payload["summary"] = clip(&text.lines().collect::<Vec<_>>().join(" "), SUMMARY_MAX).into();
            }
            event.to_string().into()
        };
        Rendered {
            delivery: message.delivery.clone(),
            place: message.place.clone(),
            parts: message.news.iter().map(part).collect(),
        }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.post(message))
    }
}

fn event(alert: &Alert, remarks: &[String], sender: &Sender) -> Value {
    let dedup_key = clip(&alert.id, DEDUP_KEY_MAX);
    if alert.status == Status::Resolved {
        return json!({ "event_action": "resolve", "dedup_key": dedup_key });
    }
    let name = |text: &str| escape(&clip(text, NAME_MAX)).into_owned();
    let severity = match alert.severity {
        Severity::Info => "info",
        Severity::Warn => "warning",
        Severity::Critical | Severity::Emergency => "critical",
    };
    let mut payload = json!({
        "summary": clip(&format!("{}: {}", title(alert, sender), sentence(alert)), SUMMARY_MAX),
        "source": name(&sender.hostname),
        "severity": severity,
        "timestamp": rfc3339(alert.at, &sender.time_zone),
        "class": name(&alert.metric),
        "group": name(alert.metric.split('_').next().unwrap_or_default()),
        "custom_details": details(alert, remarks, sender),
    });
    if let Some(component) = COMPONENTS.into_iter().find_map(|label| alert.labels.get(label)).filter(|value| !value.is_empty()) {
        payload["component"] = name(component).into();
    }
    json!({ "event_action": "trigger", "dedup_key": dedup_key, "client": "sysops-agent", "payload": payload })
}

/// Facts and evidence, by name. What has no more room is counted.
fn details(alert: &Alert, remarks: &[String], sender: &Sender) -> Map<String, Value> {
    let card = Card::of(alert, sender);
    let mut details = Map::new();
    let mut room = DETAILS_MAX;
    let mut left_out = 0_u32;
    let mut tell = |name: String, value: Value, length: usize| match room.checked_sub(name.len() + length) {
        Some(rest) => {
            room = rest;
            // A label and a piece of evidence may be called the same.
            let name = if details.contains_key(&name) { format!("{name} (evidence)") } else { name };
            details.insert(name, value);
        }
        None => left_out += 1,
    };
    let text = |value: String| (value.len(), Value::from(value));
    let head = [("Severity", alert.severity.to_string()), ("Host", card.host), ("Remarks", remarks.join("; "))];
    let head = head.into_iter().map(|(name, value)| (name.to_owned(), value));
    for (name, value) in head.chain(card.facts).filter(|(_, value)| !value.is_empty()) {
        let (length, value) = text(value);
        tell(name, value, length);
    }
    for (name, lines) in card.evidence {
        let (length, value) = match lines {
            Lines::One(value) => text(value),
            Lines::Many { mut first, more } => {
                if more > 0 {
                    first.push(format!("… {more} more"));
                }
                (first.iter().map(String::len).sum(), first.into())
            }
        };
        tell(name, value, length);
    }
    if left_out > 0 {
        details.insert("Left out".into(), left_out.into());
    }
    details
}
