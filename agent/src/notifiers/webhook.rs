//! Any HTTP receiver: one request with a JSON body for each message.
//!
//! TLS is always verified, by the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others); there is no key to turn that
//! off. Redirects are not followed: headers may hold credentials, and they are for the configured host. `HTTPS_PROXY`,
//! `HTTP_PROXY` and `NO_PROXY` are honoured.

use std::error::Error;
use std::io;
use std::time::Duration;

use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::{Serialize, Serializer};

use super::text::zoned;
use super::{BuildError, Channel, Notifier, Rendered, Retry, Row, SendError, Sender, Sending};
use crate::config::{self, WebhookMethod};
use crate::model::{Alert, Evidence, Labels};

pub(super) const ROW: Row = Row {
    name: "webhook",
    summary: "JSON to an HTTP receiver",
    build: |config| {
        let Some(webhook) = &config.alerting.webhook else { return Ok(None) };
        let notifier = Webhook::new(webhook).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            min_severity: webhook.min_severity,
            retry: Retry { count: webhook.retry_count, delay: webhook.retry_delay },
        }))
    },
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What is read of an answer, in bytes, so that its connection can serve the next message.
const ANSWER_MAX: usize = 64 * 1024;

struct Webhook {
    client: Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    /// Scheme, host and port: all that an error may say of the URL.
    origin: String,
}

impl Webhook {
    fn new(webhook: &config::Webhook) -> Result<Self, String> {
        let url = Url::parse(webhook.url.reveal()).map_err(|error| format!("alerting.webhook.url is no URL: {error}"))?;
        let (Some(host), Some(port), "http" | "https") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
            return Err("alerting.webhook.url has to start with https:// or http:// and a host".into());
        };
        let origin = format!("{}://{host}:{port}", url.scheme());
        let client = client(&url, webhook.timeout).map_err(|error| {
            format!(
                "cannot make a client for {origin}: {}; install the package ca-certificates or set SSL_CERT_FILE",
                root_cause(&error)
            )
        })?;
        let method = match webhook.method {
            WebhookMethod::Post => Method::POST,
            WebhookMethod::Put => Method::PUT,
            WebhookMethod::Patch => Method::PATCH,
        };
        Ok(Self { client, method, headers: headers(webhook)?, timeout: webhook.timeout, url, origin })
    }

    async fn request(&self, message: &Rendered) -> Result<(), SendError> {
        let mut headers = self.headers.clone();
        let key = HeaderValue::from_str(&message.delivery)
            .map_err(|_| SendError::Permanent { reason: format!("the delivery id {:?} fits no header", message.delivery) })?;
        headers.insert(IDEMPOTENCY_KEY, key);
        let request = self.client.request(self.method.clone(), self.url.clone()).headers(headers).body(message.body.clone());
        let answer = request.send().await.map_err(|error| SendError::Retry { reason: self.failed(&error), after: None })?;
        let verdict = self.judge(&answer);
        discard(answer).await;
        verdict
    }

    fn failed(&self, error: &reqwest::Error) -> String {
        let origin = &self.origin;
        if error.is_timeout() {
            let secs = self.timeout.as_secs_f64();
            return format!(
                "{origin} did not answer within {secs} s; see whether it is up, or raise alerting.webhook.timeout_secs"
            );
        }
        let cause = root_cause(error);
        if is_tls(error) {
            return format!(
                "no trusted TLS connection to {origin}: {cause}; have its certificate authority in the system's store"
            );
        }
        format!("cannot reach {origin}: {cause}; see whether it is up and its name resolves")
    }

    fn judge(&self, answer: &Response) -> Result<(), SendError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let origin = &self.origin;
        if status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) {
            let after = answer.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, jiff::Timestamp::now()));
            return Err(SendError::Retry { reason: format!("{origin} answered {status}"), after });
        }
        let advice = match status {
            _ if status.is_redirection() => "redirects are not followed, so put the final address into alerting.webhook.url",
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "check the credentials in alerting.webhook.headers or its url",
            StatusCode::NOT_FOUND | StatusCode::GONE => "check the path of alerting.webhook.url",
            StatusCode::METHOD_NOT_ALLOWED => "check alerting.webhook.method",
            _ => "see in the receiver's log why it refuses this message",
        };
        Err(SendError::Permanent { reason: format!("{origin} answered {status}; {advice}") })
    }
}

impl Notifier for Webhook {
    fn render(&self, alert: &Alert, sender: &Sender) -> Rendered {
        let body = Body {
            id: &alert.id,
            delivery: &alert.delivery,
            hostname: &sender.hostname,
            timestamp: zoned(alert.at, &sender.time_zone).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
            status: alert.status.as_str(),
            severity: alert.severity.as_str(),
            metric: alert.metric,
            value: alert.value,
            threshold: alert.threshold,
            message: &alert.message,
            labels: &alert.labels,
            duration_secs: alert.duration.as_secs(),
            evidence: &alert.evidence,
        };
        // Fails only where a map has keys that are no strings, and these have none.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        Rendered { delivery: alert.delivery.clone(), body: body.into() }
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
    #[serde(serialize_with = "as_map")]
    labels: &'a Labels,
    duration_secs: u64,
    evidence: &'a Evidence,
}

fn as_map<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter())
}

fn client(url: &Url, timeout: Duration) -> Result<Client, reqwest::Error> {
    // Another part of the process may have chosen a provider before; that one is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .http1_only()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(1)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(timeout)
        .timeout(timeout);
    if url.scheme() == "http" {
        // No handshake will ever need the system's roots, which take 400 kB.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

fn headers(webhook: &config::Webhook) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sysops-agent/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &webhook.headers {
        let key = HeaderName::try_from(name.as_str())
            .map_err(|_| format!("alerting.webhook.headers has the name {name:?}, which HTTP does not allow"))?;
        let mut value = HeaderValue::from_str(value.reveal())
            .map_err(|_| format!("the value of alerting.webhook.headers {name:?} has characters that HTTP does not allow"))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// Reads what is left of an answer. Its verdict is known, so neither its length nor its failure matters.
async fn discard(mut answer: Response) {
    let mut read = 0;
    while read < ANSWER_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            Ok(None) | Err(_) => return,
        }
    }
}

/// `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3).
fn retry_after(value: &HeaderValue, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if let Ok(secs) = value.parse() {
        return Some(Duration::from_secs(secs));
    }
    let at = rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// The innermost error in words. The outer ones only repeat that there was one, and may quote the URL.
fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "of unknown cause".into(), ToString::to_string)
}

fn is_tls(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.is::<rustls::Error>())
}

/// What is behind an error, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    // `io::Error::source` skips the error that it wraps, which here is the telling one.
    fn inner<'a>(&cause: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        }
    }
    std::iter::successors(error.source(), inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: jiff::Timestamp = "2026-02-22T07:30:00Z".parse().unwrap();
        let parse = |text| retry_after(&HeaderValue::from_static(text), now);
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse("Sun, 22 Feb 2026 07:31:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(parse("Sun, 22 Feb 2026 07:00:00 GMT"), Some(Duration::ZERO));
        for garbage in ["", "-1", "soon", "99999999999999999999", "1e3"] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
    }
}
