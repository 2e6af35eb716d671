//! Opsgenie, through its Alert API: one alert an incident, under the incident's id as alias.
//!
//! Creating an alert that is open adds to its count; what is new is then a note below it, and a new severity its new priority. The end
//! closes it. What is rendered are requests, each with its method, path and body, those first that may be made again without a trace.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::card::{Card, clip_lines, remarks, sentence, title};
use super::http::{Answer, Clients, Endpoint, Parts, TIMEOUT, sensitive};
use super::template::Template;
use super::text::{clip, escape};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, Responder};
use crate::model::{Alert, Message, Severity, Status};

pub(super) const ROW: Row = Row {
    name: "opsgenie",
    summary: "Opsgenie's Alert API",
    build: |config, clients| {
        let Some(opsgenie) = &config.alerting.opsgenie else { return Ok(None) };
        let template = Template::of(config, ROW.name);
        let notifier = Opsgenie::new(opsgenie, clients, template).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: opsgenie.severities,
            retry: RETRY,
            updates: Updates::Separate,
            refresh: None,
            is_screen: false,
        }))
    },
};

/// Limits of "Create Alert", "Add Note to Alert" and "Close Alert", in characters; bytes here, which are never fewer.
const MESSAGE_MAX: usize = 130;
const ALIAS_MAX: usize = 512;
const DESCRIPTION_MAX: usize = 15_000;
const DETAILS_MAX: usize = 8000;
const ENTITY_MAX: usize = 512;
const SOURCE_MAX: usize = 100;
const NOTE_MAX: usize = 25_000;
/// Wait after 429 where the answer names none.
const THROTTLED: Duration = Duration::from_secs(60);
/// How many seconds a throttled client has to wait ("Rate Limiting").
const RATE_LIMIT_PERIOD: &str = "x-ratelimit-period-in-sec";

struct Opsgenie {
    endpoint: Endpoint,
    authorization: HeaderValue,
    responders: Vec<Responder>,
    tags: Vec<String>,
    template: Option<Template>,
}

/// A request, without what is secret in it.
#[derive(Serialize, Deserialize)]
struct Request {
    method: String,
    /// Below `/v2/alerts`, whose first element is an alias.
    path: Vec<String>,
    body: Value,
}

impl Opsgenie {
    fn new(opsgenie: &config::Opsgenie, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let endpoint = Endpoint::new(clients, "alerting.opsgenie.api_url", &opsgenie.api_url, TIMEOUT)?;
        let authorization = sensitive(&format!("GenieKey {}", opsgenie.api_key.reveal()))
            .ok_or("alerting.opsgenie.api_key has characters that HTTP does not allow")?;
        Ok(Self { endpoint, authorization, responders: opsgenie.responders.clone(), tags: opsgenie.tags.clone(), template })
    }

    /// What there is to say, in the words of the template or else in all detail.
    fn text(&self, alert: &Arc<Alert>, remarks: &[String], sender: &Sender, max: usize) -> String {
        let templated = self.template.as_ref().and_then(|template| template.plain(alert, sender));
        let text = templated.map(|text| clip_lines(&text, max));
        harmless(&text.unwrap_or_else(|| Card::of(alert, sender).text(remarks, max)), max)
    }

    fn create(&self, alert: &Arc<Alert>, remarks: &[String], sender: &Sender) -> Request {
        let card = Card::of(alert, sender);
        let responder = |responder: &Responder| {
            let name = if responder.kind == "user" { "username" } else { "name" };
            json!({ "type": responder.kind, name: responder.name })
        };
        let body = json!({
            "message": harmless(&clip(&format!("{}: {}", title(alert, sender), sentence(alert)), MESSAGE_MAX), MESSAGE_MAX),
            "alias": alias(alert),
            "description": self.text(alert, remarks, sender, DESCRIPTION_MAX),
            "responders": self.responders.iter().map(responder).collect::<Vec<_>>(),
            "tags": self.tags,
            "details": details(alert, card.facts),
            "entity": clip(&escape(&sender.hostname), ENTITY_MAX),
            "source": clip(&escape(&sender.hostname), SOURCE_MAX),
            "priority": priority(alert.severity),
        });
        Request { method: "POST".into(), path: Vec::new(), body }
    }

    async fn post(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let mut parts = Parts::default();
        for part in &message.parts {
            parts.note(self.request(part).await)?;
        }
        parts.verdict()
    }

    async fn request(&self, part: &Bytes) -> Result<Answer, SendError> {
        let unreadable = |error: &dyn std::fmt::Display| SendError::Permanent {
            reason: format!("the rendered message cannot be read: {error}"),
        };
        let Request { method, path, body } = serde_json::from_slice(part).map_err(|error| unreadable(&error))?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| unreadable(&error))?;
        let segments: Vec<&str> = ["v2", "alerts"].into_iter().chain(path.iter().map(String::as_str)).collect();
        let mut url = self.endpoint.below(&segments);
        if !path.is_empty() {
            url.query_pairs_mut().append_pair("identifierType", "alias");
        }
        let request = self.endpoint.json(method, url, body.to_string().into()).header(AUTHORIZATION, self.authorization.clone());
        let answer = self.endpoint.call(request).await?;
        let origin = self.endpoint.origin();
        let status = answer.status;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(SendError::Permanent {
                reason: format!(
                    "{origin} answered {status}; check that alerting.opsgenie.api_key is that of an API integration which may create and \
                     update alerts, and that api_url is https://api.eu.opsgenie.com if the account is in Europe"
                ),
            }),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                let said =
                    answer.json()["message"].as_str().map(|text| escape(&clip(text, 200)).into_owned()).unwrap_or_default();
                let reason =
                    format!("{origin} answered {status} ({said}); check api_key, responders and tags in [alerting.opsgenie]");
                Err(SendError::Permanent { reason })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let period = answer.headers.get(RATE_LIMIT_PERIOD).and_then(|value| value.to_str().ok()?.trim().parse().ok());
                let after = answer.after.or(period.map(Duration::from_secs)).unwrap_or(THROTTLED);
                Err(SendError::Retry { reason: format!("{origin} answered {status}"), after: Some(after) })
            }
            _ => self.endpoint.judge(&answer).map(|()| answer),
        }
    }
}

impl Notifier for Opsgenie {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let remarks = remarks(message);
        let source = clip(&escape(&sender.hostname), SOURCE_MAX).into_owned();
        let mut requests = Vec::new();
        let mut notes = Vec::new();
        for news in &message.news {
            let alert = &news.alert;
            let below = |method: &str, action: &str, mut body: Value| {
                body["source"] = source.as_str().into();
                let path = vec![alias(alert), action.into()];
                Request { method: method.into(), path, body }
            };
            let note = || self.text(alert, &remarks, sender, NOTE_MAX);
            if alert.status == Status::Resolved {
                requests.push(below("POST", "close", json!({ "note": note() })));
                continue;
            }
            requests.push(self.create(alert, &remarks, sender));
            if news.previous.as_ref().is_some_and(|previous| previous.severity != alert.severity) {
                requests.push(Request {
                    method: "PUT".into(),
                    path: vec![alias(alert), "priority".into()],
                    body: json!({ "priority": priority(alert.severity) }),
                });
            }
            if alert.status == Status::Updated {
                notes.push(below("POST", "notes", json!({ "note": note() })));
            }
        }
        let part = |request: &Request| serde_json::to_vec(request).unwrap_or_default().into();
        Rendered {
            delivery: message.delivery.clone(),
            place: message.place.clone(),
            parts: requests.iter().chain(&notes).map(part).collect(),
        }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.post(message))
    }
}

fn alias(alert: &Alert) -> String {
    clip(&alert.id, ALIAS_MAX).into_owned()
}

/// P1 is the worst of five.
fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Emergency => "P1",
        Severity::Critical => "P2",
        Severity::Warn => "P3",
        Severity::Info => "P5",
    }
}

/// Text in which no browser finds an element of HTML, which Opsgenie's pages would show as such.
fn harmless(text: &str, max: usize) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        harmless.push(c);
        // What a tag begins with (HTML, "Tag open state").
        if c == '<' && characters.peek().is_some_and(|next| next.is_ascii_alphabetic() || "/!?".contains(*next)) {
            harmless.push(' ');
        }
    }
    clip(&harmless, max).into_owned()
}

/// Facts as properties that rules can look at. What has no more room is left out; the description has it.
fn details(alert: &Alert, facts: Vec<(String, String)>) -> Map<String, Value> {
    let mut details = Map::new();
    let mut room = DETAILS_MAX;
    for (name, value) in [("Severity".to_owned(), alert.severity.to_string())].into_iter().chain(facts) {
        let (name, value) = (harmless(&name, DETAILS_MAX), harmless(&value, DETAILS_MAX));
        if let Some(rest) = room.checked_sub(name.len() + value.len()) {
            room = rest;
            details.insert(name, value.into());
        }
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_an_element_of_html() {
        assert_eq!(harmless("a<b> </b> <!-- < b <", 99), "a< b> < /b> < !-- < b <");
        assert_eq!(harmless("load 1 < 2 && 3 > 2", 99), "load 1 < 2 && 3 > 2");
        assert!(harmless(&"<a".repeat(100), 50).len() <= 50);
    }
}
