//! Any HTTP receiver: one request with a JSON body for each message.
//!
//! A message of several alerts has the fields of the one that leads, and all of them under `evidence.group`. A template is the whole body;
//! one that does not name `alerts` makes a request for each of them.

use std::borrow::Cow;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::json;

use super::card::remarks;
use super::http::{Clients, Endpoint, idempotency, sensitive};
use super::template::{Escape, Template};
use super::text::zoned;
use super::{Accepted, BuildError, Channel, Notifier, Rendered, Retry, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, WebhookMethod};
use crate::model::{Alert, Evidence, Labels, Message, Tally};

pub(super) const ROW: Row = Row {
    name: "webhook",
    summary: "JSON to an HTTP receiver",
    build: |config, clients| {
        let Some(webhook) = &config.alerting.webhook else { return Ok(None) };
        let template = Template::of(config, ROW.name);
        let notifier = Webhook::new(webhook, clients, template).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: webhook.severities,
            retry: Retry { count: webhook.retry_count, delay: webhook.retry_delay },
            updates: Updates::Separate,
            refresh: None,
            is_screen: false,
        }))
    },
};

struct Webhook {
    endpoint: Endpoint,
    method: Method,
    headers: HeaderMap,
    template: Option<Template>,
}

impl Webhook {
    fn new(webhook: &config::Webhook, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let endpoint = Endpoint::new(clients, "alerting.webhook.url", &webhook.url, webhook.timeout)?;
        let method = match webhook.method {
            WebhookMethod::Post => Method::POST,
            WebhookMethod::Put => Method::PUT,
            WebhookMethod::Patch => Method::PATCH,
        };
        Ok(Self { endpoint, method, headers: headers(webhook)?, template })
    }

    /// One request for each part; those after the first have the key of the message with their number.
    async fn request(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let mut accepted = Accepted::default();
        for (number, part) in (1..).zip(&message.parts) {
            let mut headers = self.headers.clone();
            let key = if number == 1 { message.delivery.clone() } else { format!("{}.{number}", message.delivery) };
            headers.extend(idempotency(&key)?);
            let request = self.endpoint.request(self.method.clone()).headers(headers).body(part.clone());
            let answer = self.endpoint.call(request).await?;
            self.endpoint.judge(&answer)?;
            accepted.answer = answer.shown();
        }
        Ok(accepted)
    }
}

impl Notifier for Webhook {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let Some(alert) = message.lead() else { return Rendered::of(message, "") };
        let templated = self.template.as_ref().and_then(|template| template.render_each(message, sender, Escape::Json));
        if let Some(bodies) = templated {
            return Rendered { parts: bodies.into_iter().map(Into::into).collect(), ..Rendered::of(message, "") };
        }
        let body = Body {
            id: &alert.id,
            delivery: &message.delivery,
            hostname: &sender.hostname,
            timestamp: timestamp(alert, sender),
            status: alert.status.as_str(),
            severity: alert.severity.as_str(),
            metric: &alert.metric,
            value: alert.value,
            threshold: alert.threshold,
            message: &alert.message,
            labels: &alert.labels,
            duration_secs: alert.duration.as_secs(),
            evidence: evidence(alert, message, sender),
        };
        // Fails only where a map has keys that are no strings, and these have none.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        Rendered::of(message, body)
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.request(message))
    }
}

/// The body, in the order in which it is documented.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    delivery: &'a str,
    hostname: &'a str,
    timestamp: String,
    status: &'a str,
    severity: &'a str,
    metric: &'a str,
    value: f64,
    threshold: Option<f64>,
    message: &'a str,
    labels: &'a Labels,
    duration_secs: u64,
    evidence: Cow<'a, Evidence>,
}

fn timestamp(alert: &Alert, sender: &Sender) -> String {
    zoned(alert.at, &sender.time_zone).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

/// The alert's evidence; in a message of several alerts also all of them under `group`, what is only counted under `more`, and what
/// there is to remark.
fn evidence<'a>(alert: &'a Alert, message: &Message, sender: &Sender) -> Cow<'a, Evidence> {
    let remarks = remarks(message);
    if !message.is_group() && remarks.is_empty() {
        return Cow::Borrowed(&alert.evidence);
    }
    let mut evidence = alert.evidence.clone();
    if message.is_group() {
        let member = |alert: &Alert| {
            json!({
                "id": alert.id,
                "delivery": alert.delivery,
                "timestamp": timestamp(alert, sender),
                "status": alert.status.as_str(),
                "severity": alert.severity.as_str(),
                "metric": alert.metric,
                "value": alert.value,
                "threshold": alert.threshold,
                "message": alert.message,
                "labels": alert.labels,
                "duration_secs": alert.duration.as_secs(),
                "count": alert.count,
            })
        };
        evidence.insert("group".into(), message.alerts().map(member).collect());
        let more = |tally: &Tally| json!({ "severity": tally.severity, "metric": tally.metric, "count": tally.count });
        evidence.insert("more".into(), message.tallies.iter().map(more).collect());
        evidence.insert("group_count".into(), message.count().into());
    }
    if !remarks.is_empty() {
        evidence.insert("remarks".into(), remarks.into());
    }
    Cow::Owned(evidence)
}

fn headers(webhook: &config::Webhook) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &webhook.headers {
        let key = HeaderName::try_from(name.as_str())
            .map_err(|_| format!("alerting.webhook.headers has the name {name:?}, which HTTP does not allow"))?;
        let value = sensitive(value.reveal())
            .ok_or_else(|| format!("the value of alerting.webhook.headers {name:?} has characters that HTTP does not allow"))?;
        headers.insert(key, value);
    }
    Ok(headers)
}
