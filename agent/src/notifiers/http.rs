//! Requests to a service: one client for all channels, what may be said about a failure, and the usual verdicts.
//!
//! TLS is always verified, by the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others) and by `[alerting] ca_file`; there is no
//! key to turn that off. Redirects are not followed: headers and paths may hold credentials, and they are for the configured host.
//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured. What a service means by an answer beyond its status is its notifier's
//! business.

use std::cell::OnceCell;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};

use super::{Accepted, SendError};
use crate::config::{Login, Secret};

/// The header of the idempotency key.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Limit of one attempt, where no key sets it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of an answer, in bytes; so that its connection can serve the next message.
const ANSWER_MAX: usize = 64 * 1024;

/// Makes the clients of a set of channels: one for plain text, one for TLS, each when it is first asked for.
pub struct Clients {
    ca_file: Option<PathBuf>,
    plain: OnceCell<Client>,
    tls: OnceCell<Client>,
}

impl Clients {
    /// No client yet; TLS will also trust the authorities in this file.
    pub fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, plain: OnceCell::new(), tls: OnceCell::new() }
    }

    /// The text of `[alerting] ca_file`, where there is one, for what is no HTTP.
    pub(super) fn authorities(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(file) = &self.ca_file else { return Ok(None) };
        authorities(file)?;
        std::fs::read(file).map(Some).map_err(|error| format!("cannot read [alerting] ca_file {}: {error}", file.display()))
    }

    fn client(&self, is_tls: bool) -> Result<Client, String> {
        let cell = if is_tls { &self.tls } else { &self.plain };
        if let Some(client) = cell.get() {
            return Ok(client.clone());
        }
        let client = self.make(is_tls)?;
        Ok(cell.get_or_init(|| client).clone())
    }

    fn make(&self, is_tls: bool) -> Result<Client, String> {
        // Another part of the process may have chosen a provider before; that one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .http1_only()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(1)
            .redirect(reqwest::redirect::Policy::none());
        if !is_tls {
            // No handshake will ever need the system's roots, which take 400 kB.
            builder = builder.tls_certs_only([]);
        } else if let Some(file) = &self.ca_file {
            builder = builder.tls_certs_merge(authorities(file)?);
        }
        builder.build().map_err(|error| {
            let cause = root_cause(&error);
            format!("cannot make a TLS client: {cause}; install the package ca-certificates or set SSL_CERT_FILE")
        })
    }
}

fn authorities(file: &Path) -> Result<Vec<Certificate>, String> {
    let place = file.display();
    let pem = std::fs::read(file).map_err(|error| format!("cannot read [alerting] ca_file {place}: {error}"))?;
    let found = Certificate::from_pem_bundle(&pem)
        .map_err(|error| format!("[alerting] ca_file {place} is no list of certificates in PEM: {}", root_cause(&error)))?;
    if found.is_empty() {
        return Err(format!("[alerting] ca_file {place} holds no certificate; write them in PEM"));
    }
    Ok(found)
}

/// A place to send requests to.
pub(super) struct Endpoint {
    client: Client,
    url: Url,
    timeout: Duration,
    /// Scheme, host and port: all that an error may say of the URL.
    origin: String,
    /// The key that holds the address, for advice.
    key: &'static str,
}

/// What a service answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `Retry-After`, or what stands for it.
    pub(super) after: Option<Duration>,
    pub(super) headers: HeaderMap,
    /// The first 64 KiB.
    pub(super) body: Bytes,
}

impl Endpoint {
    /// The service at the URL that stands at `key`.
    pub(super) fn new(clients: &Clients, key: &'static str, url: &Secret, timeout: Duration) -> Result<Self, String> {
        let url = Url::parse(url.reveal()).map_err(|error| format!("{key} is no URL: {error}"))?;
        let (Some(host), Some(port), "http" | "https") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
            return Err(format!("{key} has to start with https:// or http:// and a host"));
        };
        let origin = format!("{}://{host}:{port}", url.scheme());
        let client = clients.client(url.scheme() == "https").map_err(|reason| format!("{origin}: {reason}"))?;
        Ok(Self { client, url, timeout, origin, key })
    }

    /// The address itself, for a notifier that adds to it. It may hold credentials.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// A request to the address.
    pub(super) fn request(&self, method: Method) -> RequestBuilder {
        self.request_to(method, self.url.clone())
    }

    /// A request to another address of the same service, made from [`url`](Self::url).
    pub(super) fn request_to(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url).timeout(self.timeout).header(USER_AGENT, AGENT)
    }

    /// The address with further segments at the end of its path, and its query.
    pub(super) fn below(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// JSON to another address of the same service.
    pub(super) fn json(&self, method: Method, url: Url, body: Bytes) -> RequestBuilder {
        self.request_to(method, url).header(CONTENT_TYPE, "application/json").body(body)
    }

    /// A `POST` of JSON to the address.
    pub(super) fn post_json(&self, body: Bytes) -> RequestBuilder {
        self.request(Method::POST).header(CONTENT_TYPE, "application/json").body(body)
    }

    /// Sends a request; any answer is one, whatever its status.
    pub(super) async fn call(&self, request: RequestBuilder) -> Result<Answer, SendError> {
        let answer = request.send().await.map_err(|error| SendError::Retry { reason: self.failed(&error), after: None })?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, jiff::Timestamp::now()));
        let headers = answer.headers().clone();
        Ok(Answer { status, after, headers, body: body(answer).await })
    }

    /// The verdict by status alone: 2xx is accepted; 408, 429 and 5xx may be sent again; all else is for good.
    pub(super) fn judge(&self, answer: &Answer) -> Result<(), SendError> {
        let status = answer.status;
        if status.is_success() {
            return Ok(());
        }
        let key = self.key;
        let section = key.rsplit_once('.').map_or(key, |(section, _)| section);
        let advice = match status {
            _ if status.is_redirection() => format!("redirects are not followed, so put the final address into {key}"),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!("check the credentials in [{section}]"),
            StatusCode::NOT_FOUND | StatusCode::GONE => format!("check the path of {key}"),
            StatusCode::METHOD_NOT_ALLOWED => format!("check {section}.method"),
            _ => "see in the receiver's log why it refuses this message".to_owned(),
        };
        self.judge_with(answer, "", &advice)
    }

    /// The same of a service that says in words what it refuses, with what to do about that.
    pub(super) fn judge_with(&self, answer: &Answer, said: &str, advice: &str) -> Result<(), SendError> {
        let status = answer.status;
        let origin = &self.origin;
        if status.is_success() {
            // Such a service has no pages; whoever answers in its place has not taken the message.
            return if answer.body.trim_ascii_start().starts_with(b"<") { Err(self.stranger(answer)) } else { Ok(()) };
        }
        let said = said.trim();
        let said =
            if said.is_empty() { String::new() } else { format!(": {}", super::text::escape(&super::text::clip(said, 200))) };
        let reason = format!("{origin} answered {status}{said}");
        if status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) {
            return Err(SendError::Retry { reason, after: answer.after });
        }
        Err(SendError::Permanent { reason: format!("{reason}; {advice}") })
    }

    /// It was not the service that answered; that may pass.
    pub(super) fn stranger(&self, answer: &Answer) -> SendError {
        let Self { origin, key, .. } = self;
        let reason =
            format!("{origin} answered {}, but not as the service does; see who answers there, and check {key}", answer.status);
        SendError::Retry { reason, after: answer.after }
    }

    fn failed(&self, error: &reqwest::Error) -> String {
        let origin = &self.origin;
        if error.is_timeout() {
            let secs = self.timeout.as_secs_f64();
            return format!("{origin} did not answer within {secs} s; see whether it is up");
        }
        let cause = root_cause(error);
        if causes(error).any(|cause| cause.is::<rustls::Error>()) {
            return format!(
                "no trusted TLS connection to {origin}: {cause}; have its certificate authority in the system's store or in [alerting] ca_file"
            );
        }
        format!("cannot reach {origin}: {cause}; see whether it is up and its name resolves")
    }
}

const AGENT: &str = concat!("sysops-agent/", env!("CARGO_PKG_VERSION"));

impl Answer {
    /// Status and the start of the body, for a person who asked what the service said.
    pub(super) fn shown(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let body = super::text::clip(body.trim(), 500);
        let status = self.status;
        if body.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {}", super::text::escape(&body)) }
    }

    /// The body as JSON; null where it is none.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A header's value that is not shown in debugging output.
pub(super) fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What became of the parts of a message that are sent one after the other. One that is refused for good holds up no other.
#[derive(Default)]
pub(super) struct Parts {
    accepted: usize,
    answer: String,
    refused: Vec<String>,
}

impl Parts {
    /// Takes note of one part; an error is one that the whole message has to be sent again for.
    pub(super) fn note(&mut self, outcome: Result<Answer, SendError>) -> Result<(), SendError> {
        match outcome {
            Ok(answer) => {
                self.accepted += 1;
                self.answer = answer.shown();
            }
            Err(SendError::Permanent { reason }) => self.refused.push(reason),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The verdict on the message.
    pub(super) fn verdict(self) -> Result<Accepted, SendError> {
        let Some(reason) = self.refused.first() else { return Ok(Accepted { reference: None, answer: self.answer }) };
        let total = self.accepted + self.refused.len();
        let reason = if total == 1 { reason.clone() } else { format!("{} of {total} requests: {reason}", self.refused.len()) };
        Err(SendError::Permanent { reason })
    }
}

/// Says in a request who speaks.
pub(super) fn log_in(request: RequestBuilder, login: &Login) -> RequestBuilder {
    match login {
        Login::None => request,
        Login::Basic(name, password) => request.basic_auth(name.reveal(), Some(password.reveal())),
        Login::Bearer(token) => request.bearer_auth(token.reveal()),
    }
}

/// The idempotency key as a header.
pub(super) fn idempotency(delivery: &str) -> Result<HeaderMap, SendError> {
    let key = HeaderValue::from_str(delivery)
        .map_err(|_| SendError::Permanent { reason: format!("the delivery id {delivery:?} fits no header") })?;
    Ok(HeaderMap::from_iter([(IDEMPOTENCY_KEY, key)]))
}

/// Reads what is left of an answer, up to [`ANSWER_MAX`]. Its failure does not matter: the status is known.
async fn body(mut answer: Response) -> Bytes {
    let mut read = Vec::new();
    while read.len() < ANSWER_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => read.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    read.truncate(ANSWER_MAX);
    read.into()
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

/// What is behind an error, outermost first.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
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
