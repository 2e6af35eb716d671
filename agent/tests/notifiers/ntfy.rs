//! ntfy: the limits and answers of "Publish as JSON", "Limitations" and "Updating + deleting notifications".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sysops_agent::config::{Config, Login, Ntfy, Secret};
use sysops_agent::model::{Alert, Message, News, Place, Severities, Severity, Status};
use sysops_agent::notifiers::{Accepted, Channel, SendError};

use super::golden::{cases, grouped, hostile, huge, render};
use super::stand_in::{Reply, Request, Service};
use super::{alert, channel, oom, sender};

pub fn configured(url: &str, login: Login) -> Ntfy {
    Ntfy { url: Secret::new(url.into()), login, severities: Severities::from(Severity::Info) }
}

fn to(url: &str, login: Login) -> Channel {
    let mut config = Config::default();
    config.alerting.ntfy = Some(configured(url, login));
    channel("ntfy", &config).unwrap().unwrap()
}

async fn send(channel: &Channel, message: &Message) -> Result<Accepted, SendError> {
    channel.notifier.send(&channel.notifier.render(message, &sender())).await
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// The error with which a server refuses a body.
fn fault(body: &[u8]) -> Option<(u16, u64, &'static str)> {
    // `server.go` reads twice the limit of a message.
    if body.len() > 8192 {
        return Some((413, 41303, "JSON body too large"));
    }
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    if !body["topic"].as_str().is_none_or(is_name) {
        return Some((400, 40009, "invalid request: topic invalid"));
    }
    if !is_name(text("sequence_id")) {
        return Some((400, 40049, "invalid request: sequence ID invalid"));
    }
    if !body["priority"].as_u64().is_some_and(|priority| (1..=5).contains(&priority)) {
        return Some((400, 40007, "invalid priority parameter"));
    }
    if text("message").is_empty() || text("message").len() > 4096 {
        return Some((400, 40014, "invalid request: attachments not allowed"));
    }
    if text("title").is_empty() || text("title").len() > 1024 {
        return Some((400, 40057, "invalid request: title too long"));
    }
    let tags = body["tags"].as_array().unwrap();
    let tags: Vec<&str> = tags.iter().map(|tag| tag.as_str().unwrap()).collect();
    (tags.iter().any(|tag| tag.contains(',')) || tags.concat().len() > 512).then_some((
        400,
        40058,
        "invalid request: tags too long",
    ))
}

#[test]
fn every_message_is_within_the_limits() {
    // Twice as long in JSON as it is.
    let quotes = Alert { message: "\"\\".repeat(3000), evidence: huge().evidence, ..alert(Severity::Warn) };
    let lines = Message { news: vec![grouped().news.remove(0); 3000], ..grouped() };
    let of = |alert: Alert| Message::of(alert.into());
    let more = [("hostile", of(hostile())), ("huge", of(huge())), ("quotes", of(quotes)), ("lines", lines)];
    for (case, message) in cases().into_iter().chain(more) {
        let body = render("ntfy", &message).text();
        assert_eq!(fault(&body), None, "{case}: {}", String::from_utf8_lossy(&body));
        assert!(body.len() + r#""topic":"",""#.len() + 64 <= 8192, "{case}: {}", body.len());
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert!(body["topic"].is_null(), "{case}: what is rendered may be kept, and a topic is a secret");
    }
    let long: Value = serde_json::from_slice(&render("ntfy", &of(huge())).text()).unwrap();
    assert!(long["message"].as_str().is_some_and(|message| message.len() > 3000 && message.ends_with('…')), "{long}");
}

/// Notifications by sequence id, as a phone shows them.
type Phone = Arc<Mutex<BTreeMap<String, Value>>>;

/// The server, with a topic that a token may write to.
fn server(phone: Phone) -> impl Fn(&Request) -> Reply {
    move |request| {
        let refused = |status: u16, code: u64, error: &str| {
            Reply::new(status, json!({ "code": code, "http": status, "error": error, "link": "https://ntfy.sh/docs/publish/" }))
        };
        if (request.method.as_str(), request.target.as_str()) != ("POST", "/") {
            return refused(404, 40401, "page not found");
        }
        if request.header("authorization") != "Bearer tk_hunter2" {
            return refused(403, 40301, "forbidden");
        }
        if let Some((status, code, error)) = fault(&request.body) {
            return refused(status, code, error);
        }
        let body = request.json();
        let sequence = body["sequence_id"].as_str().unwrap().to_owned();
        let answer = json!({
            "id": "sPs71M8A2T", "time": 1_771_745_400, "event": "message", "sequence_id": sequence,
            "topic": body["topic"], "message": body["message"],
        });
        phone.lock().unwrap().insert(sequence, body);
        Reply::new(200, answer)
    }
}

#[tokio::test]
async fn a_notification_is_changed_in_place_and_a_call_is_another() {
    let phone = Phone::default();
    let service = Service::start(server(Arc::clone(&phone))).await;
    let token = || Login::Bearer(Secret::new("tk_hunter2".into()));
    let channel = to(&format!("{}/hunter2-topic", service.url()), token());
    let told = |delivery: &str, status, severity, place| {
        let now = Alert { status, delivery: delivery.into(), ..alert(severity) };
        let previous = Some(alert(Severity::Warn).into());
        Message { place, news: vec![News { alert: now.clone().into(), previous, superseded: 0 }], ..Message::of(now.into()) }
    };
    let titles = || phone.lock().unwrap().values().map(|body| body["title"].as_str().unwrap().to_owned()).collect::<Vec<_>>();

    let first = send(&channel, &Message::of(alert(Severity::Warn).into())).await.unwrap();
    assert_eq!(first.answer, "HTTP 200 OK: message sPs71M8A2T");
    let name = first.reference.unwrap();
    // Sent again, because the answer got lost.
    send(&channel, &Message::of(alert(Severity::Warn).into())).await.unwrap();
    assert_eq!(titles(), ["WARN web-01"]);
    let body = service.take()[0].json();
    assert_eq!((&body["topic"], &body["priority"]), (&json!("hunter2-topic"), &json!(3)));

    let update = told("d-2", Status::Updated, Severity::Warn, Place::Replace(name.clone()));
    assert_eq!(send(&channel, &update).await.unwrap().reference, None);
    assert_eq!(titles(), ["[UPDATED] WARN web-01"]);
    assert_eq!(service.take()[0].json()["priority"], 2);

    let call = told("d-3", Status::Updated, Severity::Emergency, Place::Answer(name.clone()));
    assert_eq!(send(&channel, &call).await.unwrap().reference, None);
    assert_eq!(titles(), ["[UPDATED] WARN web-01", "[UPDATED] EMERGENCY web-01"]);
    assert_eq!(service.take()[0].json()["priority"], 5);

    send(&channel, &told("d-4", Status::Resolved, Severity::Emergency, Place::Replace(name))).await.unwrap();
    assert_eq!(titles(), ["[RESOLVED] EMERGENCY web-01", "[UPDATED] EMERGENCY web-01"]);

    let stranger = send(&to(&format!("{}/hunter2-topic", service.url()), Login::None), &update).await.unwrap_err();
    assert!(stranger.to_string().contains("(forbidden); check the login in [alerting.ntfy]"), "{stranger}");
}

#[tokio::test]
async fn answers_are_taken_as_documented() {
    let secs = |secs| Ok(Some(Duration::from_secs(secs)));
    let error = |code: u64, error: &str| json!({ "code": code, "error": error });
    let cases = [
        (
            Reply::new(400, error(40010, "invalid request: topic name is disallowed")),
            Err("(invalid request: topic name is disallowed); check"),
        ),
        (Reply::new(401, error(40101, "unauthorized")), Err("may write to the topic")),
        (Reply::new(404, ""), Err("check the path of alerting.ntfy.url")),
        (Reply::new(413, error(41303, "JSON body too large")), Err("see in the receiver's log")),
        (Reply::new(429, error(42901, "limit reached: too many requests")), secs(60)),
        (Reply::new(429, error(42908, "limit reached: too many messages")), secs(600)),
        (Reply::new(429, "").header("retry-after", "7"), secs(7)),
        (Reply::new(507, error(50701, "cannot publish without an active subscriber")), Ok(None)),
        (Reply::new(500, ""), Ok(None)),
    ];
    for (reply, expected) in cases {
        let service = Service::fixed(reply.clone()).await;
        let basic = Login::Basic(Secret::new("ops".into()), Secret::new("hunter2".into()));
        let error = send(&to(&format!("{}/hunter2", service.url()), basic), &Message::of(oom().into())).await.unwrap_err();
        assert_eq!(service.take()[0].header("authorization"), "Basic b3BzOmh1bnRlcjI=");
        match (&error, expected) {
            (SendError::Retry { after, .. }, Ok(expected)) => assert_eq!(*after, expected, "{reply:?}"),
            (SendError::Permanent { reason }, Err(text)) => assert!(reason.contains(text), "{reason}"),
            _ => panic!("{reply:?}: {error:?}"),
        }
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
