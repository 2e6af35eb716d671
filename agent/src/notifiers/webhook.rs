//! Any HTTP receiver: one request with a JSON body for each message.
//!
//! A message of several alerts has the fields of the one that leads, and all of them under `evidence.group`. A template is the whole body;
//! one that does not name `alerts` makes a request for each of them.
//!
//! With `hmac_secret`, each attempt is signed: `X-Sysops-Timestamp` holds its time in seconds since the Unix epoch, and
//! `X-Sysops-Signature` is `sha256=` and the hexadecimal HMAC-SHA256 (RFC 2104) of that text, a full stop and the body. A receiver that
//! refuses old timestamps cannot be fed a message again that somebody else kept.

use std::borrow::Cow;
use std::fmt::Write as _;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::json;

use super::card::remarks;
use super::http::{Clients, Endpoint, idempotency, sensitive};
use super::template::{Escape, Template};
use super::text::rfc3339;
use super::{Accepted, BuildError, Channel, Notifier, Rendered, Retry, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, Secret};
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
    signer: Option<Signer>,
}

impl Webhook {
    fn new(webhook: &config::Webhook, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let endpoint = Endpoint::new(clients, "alerting.webhook.url", &webhook.url, webhook.timeout)?;
        let method = &webhook.method;
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("alerting.webhook.method is {method:?}, no method"))?;
        let signer = webhook.hmac_secret.as_ref().map(Signer::new);
        Ok(Self { endpoint, method, headers: headers(webhook)?, template, signer })
    }

    /// One request for each part; those after the first have the key of the message with their number.
    async fn request(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let mut accepted = Accepted::default();
        for (number, part) in (1..).zip(&message.parts) {
            let mut headers = self.headers.clone();
            let key = if number == 1 { message.delivery.clone() } else { format!("{}.{number}", message.delivery) };
            headers.extend(idempotency(&key)?);
            if let Some(signer) = &self.signer {
                headers.extend(signer.headers(jiff::Timestamp::now().as_second(), part)?);
            }
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
            timestamp: rfc3339(alert.at, &sender.time_zone),
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

/// Signs requests, each with its own time.
struct Signer {
    key: ring::hmac::Key,
}

const TIMESTAMP: HeaderName = HeaderName::from_static("x-sysops-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("x-sysops-signature");

impl Signer {
    fn new(secret: &Secret) -> Self {
        Self { key: ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.reveal().as_bytes()) }
    }

    fn headers(&self, at: i64, body: &[u8]) -> Result<HeaderMap, SendError> {
        let mut context = ring::hmac::Context::with_key(&self.key);
        context.update(format!("{at}.").as_bytes());
        context.update(body);
        let mut signature = "sha256=".to_owned();
        for byte in context.sign().as_ref() {
            let _ = write!(signature, "{byte:02x}");
        }
        let value = HeaderValue::from_str(&signature)
            .map_err(|_| SendError::Permanent { reason: "the signature fits no header".to_owned() })?;
        Ok(HeaderMap::from_iter([(TIMESTAMP, HeaderValue::from(at)), (SIGNATURE, value)]))
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
                "timestamp": rfc3339(alert.at, &sender.time_zone),
                "status": alert.status.as_str(),
                "severity": alert.severity.as_str(),
                "metric": alert.metric,
                "value": alert.value,
                "threshold": alert.threshold,
                "message": alert.message,
                "labels": alert.labels,
                "duration_secs": alert.duration.as_secs(),
                "count": alert.count,
                "evidence": alert.evidence,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_rfc_2104() {
        // `printf '1771745400.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef`
        let headers = Signer::new(&Secret::new("0123456789abcdef".into())).headers(1_771_745_400, br#"{"a":1}"#).unwrap();
        assert_eq!(headers[TIMESTAMP], "1771745400");
        assert_eq!(headers[SIGNATURE], "sha256=382c56f1fb9a866bf6d2b1e2a22ebd281d8f73cee24fd3038963fd1849aa373f");
    }
}
