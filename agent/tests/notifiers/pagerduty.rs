//! PagerDuty: the limits and answers of "Send an Alert Event" and "Events API v2 Overview".

use std::time::Duration;

use serde_json::{Value, json};
use sysops_agent::config::{Config, Pagerduty, Secret};
use sysops_agent::model::{Alert, Message, Severities, Severity, Status};
use sysops_agent::notifiers::{Accepted, Channel, SendError};

use super::golden::{cases, grouped, hostile, huge, render};
use super::stand_in::{Reply, Request, Service};
use super::{alert, channel, oom, sender};

const KEY: &str = "hunter2hunter2hunter2hunter2abcd";

pub fn configured(url: &str) -> Pagerduty {
    Pagerduty {
        routing_key: Secret::new(KEY.into()),
        api_url: Secret::new(url.into()),
        severities: Severities::from(Severity::Info),
    }
}

fn to(url: &str) -> Channel {
    let mut config = Config::default();
    config.alerting.pagerduty = Some(configured(url));
    channel("pagerduty", &config).unwrap().unwrap()
}

async fn send(channel: &Channel, message: &Message) -> Result<Accepted, SendError> {
    channel.notifier.send(&channel.notifier.render(message, &sender())).await
}

/// What the documentation does not allow: fields, their kinds and lengths, the size of it all.
fn fault(body: &[u8]) -> Option<String> {
    fn check(body: &[u8]) -> Result<(), String> {
        let event: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let text = |value: &Value, max: usize, name: &str| match value.as_str() {
            Some(text) if !text.is_empty() && text.chars().count() <= max => Ok(text.to_owned()),
            _ => Err(format!("'{name}' is missing, blank or too long")),
        };
        if body.len() > 512_000 {
            return Err(format!("the event has {} bytes", body.len()));
        }
        text(&event["dedup_key"], 255, "dedup_key")?;
        match event["event_action"].as_str() {
            Some("resolve") => return Ok(()),
            Some("trigger") => {}
            other => return Err(format!("'event_action' is {other:?}")),
        }
        let payload = &event["payload"];
        text(&payload["summary"], 1024, "summary")?;
        text(&payload["source"], 255, "source")?;
        let severity = text(&payload["severity"], 8, "severity")?;
        if !["critical", "error", "warning", "info"].contains(&severity.as_str()) {
            return Err(format!("'severity' is {severity}"));
        }
        text(&payload["timestamp"], 64, "timestamp")?.parse::<jiff::Timestamp>().map_err(|error| error.to_string())?;
        for optional in ["component", "group", "class"].into_iter().filter(|name| payload.get(name).is_some()) {
            text(&payload[optional], 255, optional)?;
        }
        payload["custom_details"].as_object().map(drop).ok_or_else(|| "'custom_details' is no object".to_owned())
    }
    check(body).err()
}

#[test]
fn every_event_is_within_the_limits() {
    let more = [("hostile", Message::of(hostile().into())), ("huge", Message::of(huge().into()))];
    for (case, message) in cases().into_iter().chain(more) {
        let rendered = render("pagerduty", &message);
        assert_eq!(rendered.parts.len(), message.news.len(), "{case}");
        for part in &rendered.parts {
            assert_eq!(fault(part), None, "{case}");
            assert!(!String::from_utf8_lossy(part).contains("hunter2"), "what is rendered may be kept");
        }
    }
    let mut many = huge();
    for number in 0..2000 {
        many.evidence.insert(format!("fact {number}"), "x".repeat(500).into());
    }
    let part = render("pagerduty", &Message::of(many.into())).parts.remove(0);
    assert_eq!(fault(&part), None);
    let event: Value = serde_json::from_slice(&part).unwrap();
    assert!(event["payload"]["custom_details"]["Left out"].as_u64().is_some_and(|left| left > 1000), "{event}");
}

/// The service: keeps alerts by deduplication key.
fn service(request: &Request) -> Reply {
    let invalid = |error: &str| {
        Reply::new(400, json!({ "status": "invalid event", "message": "Event object is invalid", "errors": [error] }))
    };
    if (request.method.as_str(), request.target.as_str()) != ("POST", "/v2/enqueue") {
        return Reply::new(404, "");
    }
    let key = &request.json()["routing_key"];
    match fault(&request.body) {
        Some(fault) => invalid(&fault),
        None if key != KEY => invalid(&format!("routing_key {key} is invalid")),
        None => {
            let body = json!({ "status": "success", "message": "Event processed", "dedup_key": request.json()["dedup_key"] });
            Reply::new(202, body)
        }
    }
}

#[tokio::test]
async fn an_incident_opens_goes_on_and_ends_under_one_key() {
    let service = Service::start(service).await;
    let channel = to(&service.url());
    for status in [Status::Firing, Status::Updated, Status::Resolved] {
        let accepted = send(&channel, &Message::of(Alert { status, ..alert(Severity::Emergency) }.into())).await.unwrap();
        assert!(accepted.answer.starts_with("HTTP 202 Accepted: {") && accepted.reference.is_none(), "{accepted:?}");
    }
    let events: Vec<Value> = service.take().iter().map(Request::json).collect();
    assert!(events.iter().all(|event| event["dedup_key"] == "i-1" && event["routing_key"] == KEY), "{events:?}");
    let actions: Vec<_> = events.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["trigger", "trigger", "resolve"]);
    assert_eq!(events[0]["payload"]["severity"], "critical");
    assert_eq!(events[0]["payload"]["custom_details"]["Severity"], "emergency");
}

#[tokio::test]
async fn each_alert_of_a_group_is_an_event_and_a_refused_one_holds_up_no_other() {
    let good = Service::start(service).await;
    send(&to(&good.url()), &grouped()).await.unwrap();
    let actions = good.take().iter().map(|request| request.json()["event_action"].clone()).collect::<Vec<_>>();
    assert_eq!(actions, ["trigger", "trigger", "resolve"]);

    let picky = Service::start(|request| {
        let refused = request.json()["dedup_key"] == "i-1";
        if refused { Reply::new(400, json!({ "errors": [format!("{KEY} is odd")] })) } else { service(request) }
    })
    .await;
    let error = send(&to(&picky.url()), &grouped()).await.unwrap_err();
    assert_eq!(picky.take().len(), 3);
    let told = error.to_string();
    assert!(matches!(error, SendError::Permanent { .. }) && told.starts_with("1 of 3 requests: "), "{told}");
    assert!(told.contains("(*** is odd)") && told.contains("check alerting.pagerduty.routing_key"), "{told}");
}

#[tokio::test]
async fn answers_are_taken_as_documented() {
    let secs = |secs| Ok(Some(Duration::from_secs(secs)));
    let cases = [
        (Reply::new(400, "no JSON"), Err("refuses the event as invalid; check")),
        (Reply::new(403, ""), Err("check the credentials in [alerting.pagerduty]")),
        (Reply::new(404, ""), Err("check the path of alerting.pagerduty.api_url")),
        (Reply::new(429, ""), secs(120)),
        (Reply::new(429, "").header("retry-after", "7"), secs(7)),
        (Reply::new(500, ""), Ok(None)),
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
