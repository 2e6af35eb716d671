//! Prometheus Alertmanager, through its API of version 2: all alerts of a message in one request, to every member of a cluster.
//!
//! Alertmanager knows an alert by its labels, the severity among them. Where they change, the alert of the old labels is resolved in the
//! request that tells the new one. It takes for over what it does not hear of again: what goes on is told every two minutes, and each time
//! said to hold for ten, so that an agent that died leaves no alert for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::card::{Card, clip_lines, line, remarks};
use super::http::{Clients, Endpoint, TIMEOUT, log_in};
use super::template::Template;
use super::text::{clip, escape, number, rfc3339};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, Login};
use crate::model::{Alert, Message, Status};

pub(super) const ROW: Row = Row {
    name: "alertmanager",
    summary: "Prometheus Alertmanager",
    build: |config, clients| {
        let Some(alertmanager) = &config.alerting.alertmanager else { return Ok(None) };
        let template = Template::of(config, ROW.name);
        let notifier =
            Alertmanager::new(alertmanager, clients, template).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: alertmanager.severities,
            retry: RETRY,
            updates: Updates::Separate,
            refresh: Some(REFRESH),
            is_screen: false,
        }))
    },
};

/// How often what goes on is told again.
const REFRESH: Duration = Duration::from_secs(120);
/// How long it holds from each time: four may be lost on the way.
const VALID: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// Longest value of a label, in bytes: Linux has no longer path of a cgroup than `PATH_MAX`, and few are a quarter of it.
const LABEL_MAX: usize = 1024;
/// Longest evidence in an annotation, in bytes; notifications hold all annotations of all alerts of a group.
const EVIDENCE_MAX: usize = 8 * 1024;
/// Labels that say what an alert is; one of the alert's own with such a name gets another.
const RESERVED: [&str; 3] = ["alertname", "instance", "severity"];

struct Alertmanager {
    members: Vec<Arc<Endpoint>>,
    login: Login,
    template: Option<Template>,
}

/// An alert as `postableAlert` in Alertmanager's `api/v2/openapi.yaml`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Posted {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: String,
    /// Of what goes on, it is counted from the attempt.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    ends_at: Option<String>,
}

impl Alertmanager {
    fn new(alertmanager: &config::Alertmanager, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let member = |url| Endpoint::new(clients, "alerting.alertmanager.url", url, TIMEOUT).map(Arc::new);
        let members = alertmanager.urls.iter().map(member).collect::<Result<_, _>>()?;
        Ok(Self { members, login: alertmanager.login.clone(), template })
    }

    /// It is accepted when one member has it and none that answered lacks it; one that is down hears of what goes on when it is back.
    async fn post(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let body = lasting(&message.text())?;
        let mut requests = JoinSet::new();
        for member in &self.members {
            let url = member.below(&["api", "v2", "alerts"]);
            let request = member.json(Method::POST, url, body.clone());
            let (member, request) = (Arc::clone(member), log_in(request, &self.login));
            requests.spawn(async move {
                let answer = member.call(request).await.map_err(Outcome::Unreachable)?;
                member.judge(&answer).map_err(Outcome::Refused)?;
                Ok(answer.shown())
            });
        }
        let mut accepted = None;
        let mut unreachable = None;
        let mut refused = None;
        while let Some(outcome) = requests.join_next().await {
            match outcome {
                Ok(Ok(answer)) => accepted = Some(Accepted { reference: None, answer }),
                Ok(Err(Outcome::Unreachable(error))) => unreachable = Some(error),
                // A refusal for good is no reason to hold back what another member may take later.
                Ok(Err(Outcome::Refused(error))) => {
                    if !matches!(refused, Some(SendError::Retry { .. })) {
                        refused = Some(error);
                    }
                }
                Err(error) => {
                    unreachable = Some(SendError::Retry { reason: format!("a request was given up: {error}"), after: None });
                }
            }
        }
        match (refused, accepted, unreachable) {
            (Some(error), _, _) | (None, None, Some(error)) => Err(error),
            (None, Some(accepted), _) => Ok(accepted),
            (None, None, None) => Err(SendError::Permanent { reason: "alerting.alertmanager.url names nobody".to_owned() }),
        }
    }
}

enum Outcome {
    Unreachable(SendError),
    Refused(SendError),
}

impl Notifier for Alertmanager {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let remarks = remarks(message).join("; ");
        let mut posts = Vec::with_capacity(message.news.len());
        for news in &message.news {
            let mut post = posted(&news.alert, sender);
            if let Some(text) = self.template.as_ref().and_then(|template| template.plain(&news.alert, sender)) {
                post.annotations.insert("description".into(), clip_lines(&text, EVIDENCE_MAX));
            }
            if !remarks.is_empty() {
                post.annotations.insert("remarks".into(), remarks.clone());
            }
            let told = news.previous.as_ref().filter(|previous| previous.status != Status::Resolved);
            if let Some((previous, mut old)) =
                told.map(|previous| (previous, posted(previous, sender))).filter(|(_, old)| old.labels != post.labels)
            {
                // Not before it began, even if the clock went back.
                old.ends_at = Some(rfc3339(news.alert.at.max(previous.at), &sender.time_zone));
                posts.push(old);
            }
            posts.push(post);
        }
        // Fails only where a map has keys that are no strings, and these have none.
        Rendered::of(message, serde_json::to_vec(&posts).unwrap_or_default())
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.post(message))
    }
}

/// The request's body, in which what goes on does so for some time from now.
fn lasting(body: &[u8]) -> Result<Bytes, SendError> {
    let unreadable = |error| SendError::Permanent { reason: format!("the rendered message cannot be read: {error}") };
    let mut posts: Vec<Posted> = serde_json::from_slice(body).map_err(unreadable)?;
    let until = jiff::Timestamp::now() + VALID;
    for post in &mut posts {
        post.ends_at.get_or_insert_with(|| until.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
    }
    serde_json::to_vec(&posts).map(Into::into).map_err(unreadable)
}

fn posted(alert: &Alert, sender: &Sender) -> Posted {
    let card = Card::of(alert, sender);
    let mut annotations = BTreeMap::new();
    let mut annotate = |name: &str, value: String| {
        if !value.is_empty() {
            annotations.insert(name.to_owned(), value);
        }
    };
    annotate("description", card.facts_line());
    annotate("evidence", card.evidence_text(EVIDENCE_MAX));
    annotate("host", card.host);
    annotate("incident", alert.id.clone());
    annotate("summary", card.message);
    annotate("value", number(alert.value));
    if let Some(threshold) = alert.threshold {
        annotate("threshold", number(threshold));
    }
    let started = alert.at.minus(alert.duration);
    let ends_at = (alert.status == Status::Resolved).then(|| rfc3339(alert.at, &sender.time_zone));
    Posted { labels: labels(alert, sender), annotations, starts_at: rfc3339(started, &sender.time_zone), ends_at }
}

/// What Alertmanager knows the alert by. Names are those of Prometheus' data model; an empty value means that there is no label.
fn labels(alert: &Alert, sender: &Sender) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("alertname".to_owned(), line(&alert.metric)),
        ("instance".to_owned(), escape(&clip(&sender.hostname, LABEL_MAX)).into_owned()),
        ("severity".to_owned(), alert.severity.as_str().to_owned()),
    ]);
    for (name, value) in alert.labels.iter().filter(|(_, value)| !value.is_empty()) {
        let mut name = label_name(name);
        while labels.contains_key(&name) {
            name.push('_');
        }
        labels.insert(name, escape(&clip(value, LABEL_MAX)).into_owned());
    }
    labels
}

/// A name of the form `[a-zA-Z_][a-zA-Z0-9_]*`.
fn label_name(name: &str) -> String {
    let name = clip(name, LABEL_MAX);
    let is_reserved = RESERVED.contains(&&*name) || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit());
    let name = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    if is_reserved { "label_".chars().chain(name).collect() } else { name.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_names_that_prometheus_knows() {
        let cases = [
            ("core", "core"),
            ("k8s.io/pod-name", "k8s_io_pod_name"),
            ("1st", "label_1st"),
            ("", "label_"),
            ("ä", "_"),
            ("severity", "label_severity"),
            ("Severity", "Severity"),
        ];
        for (name, label) in cases {
            assert_eq!(label_name(name), label);
        }
    }

    #[test]
    fn what_goes_on_lasts_from_the_attempt_and_an_end_stays_what_it_was() {
        let body = br#"[{"labels":{},"annotations":{},"startsAt":"2026-02-22T16:30:00Z"},
            {"labels":{},"annotations":{},"startsAt":"2026-02-22T16:30:00Z","endsAt":"2026-02-22T16:31:00Z"}]"#;
        let posts: Vec<Posted> = serde_json::from_slice(&lasting(body).unwrap()).unwrap();
        let until: jiff::Timestamp = posts[0].ends_at.as_ref().unwrap().parse().unwrap();
        let left = until.duration_since(jiff::Timestamp::now());
        assert!(left > VALID - jiff::SignedDuration::from_secs(60) && left <= VALID, "{left:?}");
        assert!(left.unsigned_abs() > 4 * REFRESH, "one late refresh would end it");
        assert_eq!(posts[1].ends_at.as_deref(), Some("2026-02-22T16:31:00Z"));
    }
}
