//! Opsgenie: the limits and answers of "Alert API", "Response" and "Rate Limiting".

use std::time::Duration;

use serde_json::{Value, json};
use sysops_agent::config::{Config, Opsgenie, Responder, Secret};
use sysops_agent::model::{Alert, Message, News, Severities, Severity, Status};
use sysops_agent::notifiers::{Accepted, Channel, SendError};

use super::golden::{cases, grouped, hostile, huge, render};
use super::stand_in::{Reply, Request, Service};
use super::{alert, channel, oom, sender};

pub fn configured(url: &str) -> Opsgenie {
    let responder = |kind, name: &str| Responder { kind, name: name.into() };
    Opsgenie {
        api_key: Secret::new("hunter2".into()),
        api_url: Secret::new(url.into()),
        responders: vec![responder("team", "ops"), responder("user", "trinity@example.org")],
        tags: vec!["linux".into()],
        severities: Severities::from(Severity::Info),
    }
}

fn to(url: &str) -> Channel {
    let mut config = Config::default();
    config.alerting.opsgenie = Some(configured(url));
    channel("opsgenie", &config).unwrap().unwrap()
}

async fn send(channel: &Channel, message: &Message) -> Result<Accepted, SendError> {
    channel.notifier.send(&channel.notifier.render(message, &sender())).await
}

/// What the documentation does not allow in a request with this path.
fn fault(method: &str, path: &[&str], body: &Value) -> Option<String> {
    let text = |name: &str, max: usize| match body[name].as_str() {
        Some(text) if text.trim().is_empty() || text.chars().count() > max => Some(format!("{name} is blank or too long")),
        Some(text) if ["<a", "<b", "<s", "</"].iter().any(|tag| text.contains(tag)) => Some(format!("{name} holds HTML")),
        Some(_) => None,
        None => Some(format!("{name} is missing")),
    };
    let priority = || match body["priority"].as_str() {
        Some("P1" | "P2" | "P3" | "P4" | "P5") => None,
        _ => Some("priority is unknown".to_owned()),
    };
    match (method, path) {
        ("POST", []) => {
            let limits = [("message", 130), ("alias", 512), ("description", 15_000), ("entity", 512), ("source", 100)];
            let long = limits.into_iter().find_map(|(name, max)| text(name, max));
            let strings = |pairs: &Value| -> Option<usize> {
                pairs.as_object()?.iter().map(|(name, value)| Some(name.chars().count() + value.as_str()?.chars().count())).sum()
            };
            let details = strings(&body["details"]).is_none_or(|length| length > 8000).then(|| "details are too long".to_owned());
            let tags = body["tags"].as_array().unwrap();
            let tags = (tags.len() > 20 || tags.iter().any(|tag| tag.as_str().unwrap().chars().count() > 50))
                .then(|| "too many tags".to_owned());
            let is_responder = |responder: &Value| match responder["type"].as_str() {
                Some("user") => responder["username"].is_string(),
                Some("team" | "schedule" | "escalation") => responder["name"].is_string(),
                _ => false,
            };
            let responders = body["responders"].as_array().unwrap().iter().all(is_responder);
            long.or(details).or(tags).or_else(priority).or((!responders).then(|| "nobody responds".to_owned()))
        }
        ("POST", [_, "close" | "notes"]) => text("note", 25_000).or_else(|| text("source", 100)),
        ("PUT", [_, "priority"]) => priority(),
        _ => Some("no such request".to_owned()),
    }
}

fn part(part: &[u8]) -> (String, Vec<String>, Value) {
    let request: Value = serde_json::from_slice(part).unwrap();
    let path = request["path"].as_array().unwrap().iter().map(|segment| segment.as_str().unwrap().to_owned()).collect();
    (request["method"].as_str().unwrap().to_owned(), path, request["body"].clone())
}

#[test]
fn every_request_is_within_the_limits() {
    let more = [("hostile", Message::of(hostile().into())), ("huge", Message::of(huge().into()))];
    for (case, message) in cases().into_iter().chain(more) {
        for (method, path, body) in render("opsgenie", &message).parts.iter().map(|rendered| part(rendered)) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            assert_eq!(fault(&method, &path, &body), None, "{case}: {body}");
        }
    }
}

/// The service: takes what it documents and works through it later.
fn service(request: &Request) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let Some(path) = path.strip_prefix("/v2/alerts") else { return Reply::new(404, "") };
    let path: Vec<&str> = path.split('/').skip(1).collect();
    if request.header("authorization") != "GenieKey hunter2" {
        return Reply::new(401, json!({ "message": "Could not authenticate", "took": 0.001, "requestId": "r-1" }));
    }
    let by_alias = path.is_empty() || query == "identifierType=alias";
    match fault(&request.method, &path, &request.json()) {
        None if by_alias => Reply::new(202, json!({ "result": "Request will be processed", "took": 0.3, "requestId": "r-1" })),
        fault => Reply::new(422, json!({ "message": fault.unwrap_or_default(), "took": 0.001, "requestId": "r-1" })),
    }
}

fn asked(service: &Service) -> Vec<String> {
    service.take().iter().map(|request| format!("{} {}", request.method, request.target)).collect()
}

#[tokio::test]
async fn an_incident_is_opened_noted_raised_and_closed_by_its_alias() {
    let service = Service::start(service).await;
    let channel = to(&service.url());
    let told = |status, severity, before: Option<Severity>| {
        let now = Alert { status, id: "i/1 ü".into(), ..alert(severity) };
        let previous = before.map(|severity| alert(severity).into());
        Message { news: vec![News { alert: now.clone().into(), previous, superseded: 0 }], ..Message::of(now.into()) }
    };
    let accepted = send(&channel, &told(Status::Firing, Severity::Critical, None)).await.unwrap();
    assert!(accepted.answer.contains("Request will be processed"), "{accepted:?}");
    assert_eq!(asked(&service), ["POST /v2/alerts"]);
    send(&channel, &told(Status::Updated, Severity::Critical, Some(Severity::Critical))).await.unwrap();
    assert_eq!(asked(&service), ["POST /v2/alerts", "POST /v2/alerts/i%2F1%20%C3%BC/notes?identifierType=alias"]);
    send(&channel, &told(Status::Updated, Severity::Emergency, Some(Severity::Critical))).await.unwrap();
    assert_eq!(asked(&service)[1], "PUT /v2/alerts/i%2F1%20%C3%BC/priority?identifierType=alias");
    send(&channel, &told(Status::Resolved, Severity::Emergency, Some(Severity::Emergency))).await.unwrap();
    assert_eq!(asked(&service), ["POST /v2/alerts/i%2F1%20%C3%BC/close?identifierType=alias"]);
}

#[tokio::test]
async fn a_group_is_several_alerts() {
    let service = Service::start(service).await;
    send(&to(&service.url()), &grouped()).await.unwrap();
    let expected = ["POST /v2/alerts", "POST /v2/alerts", "POST /v2/alerts/i-3/close?identifierType=alias"];
    assert_eq!(asked(&service), expected);
}

#[tokio::test]
async fn answers_are_taken_as_documented() {
    let secs = |secs| Ok(Some(Duration::from_secs(secs)));
    let cases = [
        (Reply::new(422, json!({ "message": "Key format is not valid!" })), Err("(Key format is not valid!); check api_key")),
        (Reply::new(401, ""), Err("if the account is in Europe")),
        (Reply::new(403, json!({ "code": 40301 })), Err("may create and update alerts")),
        (Reply::new(402, ""), Err("see in the receiver's log")),
        (Reply::new(404, ""), Err("check the path of alerting.opsgenie.api_url")),
        (Reply::new(429, "").header("x-ratelimit-period-in-sec", "30"), secs(30)),
        (Reply::new(429, "").header("retry-after", "7").header("x-ratelimit-period-in-sec", "30"), secs(7)),
        (Reply::new(429, ""), secs(60)),
        (Reply::new(503, ""), Ok(None)),
    ];
    for (reply, expected) in cases {
        let service = Service::fixed(reply.clone()).await;
        let error = send(&to(&service.url()), &Message::of(oom().into())).await.unwrap_err();
        match (&error, expected) {
            (SendError::Retry { after, .. }, Ok(expected)) => assert_eq!(*after, expected, "{reply:?}"),
            (SendError::Permanent { reason }, Err(text)) => assert!(reason.contains(text), "{reason}"),
            _ => panic!("{reply:?}: {error:?}"),
        }
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
