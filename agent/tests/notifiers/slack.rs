//! Slack against an incoming webhook and a Web API that answer as its documentation says ("Sending messages using incoming webhooks",
//! "chat.postMessage", "chat.update", "Rate limits", "Block Kit"), and refuse what it would refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sysops_agent::config::{self, Config, Secret, SlackAccess};
use sysops_agent::model::{Message, Place, Severities, Severity};
use sysops_agent::notifiers::{Channel, Rendered, SendError, Updates};

use super::chats::{Told, everything, hostile_call, list, object, tell, text};
use super::service::{Protocol, Reply, Request, Service};
use super::{channel, golden, sender};

const TOKEN: &str = "xoxb-17-secret";

pub fn config(access: SlackAccess) -> config::Slack {
    config::Slack {
        access,
        channel: Some("#ops".into()),
        mention_users: vec!["U012AB3CD".into(), "S0604QSJC".into()],
        severities: Severities::from(Severity::Warn),
    }
}

pub fn bot(api_url: &str) -> SlackAccess {
    SlackAccess::Bot { token: Secret::new(TOKEN.into()), api_url: Secret::new(api_url.into()) }
}

fn to(slack: config::Slack) -> Channel {
    let mut whole = Config::default();
    whole.alerting.slack = Some(slack);
    channel("slack", &whole).unwrap().unwrap()
}

fn webhook(url: &str) -> Channel {
    to(config::Slack { channel: None, ..config(SlackAccess::Webhook(Secret::new(url.into()))) })
}

/// A workspace with one channel, as an app's bot and an incoming webhook see it.
#[derive(Default)]
struct Workspace {
    messages: BTreeMap<String, Value>,
    made: u64,
    /// Messages that came by the webhook.
    hooked: Vec<Value>,
}

impl Protocol for Workspace {
    fn answer(&mut self, request: &Request) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", path) if path.starts_with("/services/") => self.hook(path, request),
            ("POST", "/api/chat.postMessage" | "/api/chat.update") => {
                let (status, body) = match self.method(request) {
                    Ok(body) => (200, body),
                    Err(error) => (200, json!({ "ok": false, "error": error })),
                };
                Reply::json(status, body)
            }
            _ => Reply::new(404, "<!DOCTYPE html><title>There's been a glitch…</title>"),
        }
    }
}

impl Workspace {
    fn hook(&mut self, path: &str, request: &Request) -> Reply {
        if path != "/services/T1/B1/secret" {
            return Reply::new(404, "no_service");
        }
        let Some(body) = request.json() else { return Reply::new(400, "invalid_payload") };
        if let Err(error) = validate(&body, &[]) {
            return Reply::new(400, format!("invalid_blocks {error}"));
        }
        self.hooked.push(body);
        Reply::new(200, "ok")
    }

    fn method(&mut self, request: &Request) -> Result<Value, String> {
        match request.headers.get("authorization").map(|value| value.to_str().unwrap()) {
            None => return Err("not_authed".into()),
            Some("Bearer xoxb-17-secret") => {}
            Some(_) => return Err("invalid_auth".into()),
        }
        let body = request.json().ok_or("invalid_json")?;
        let channel = match body["channel"].as_str() {
            Some("#ops" | "C024BE91L") => "C024BE91L",
            Some("#private") => return Err("not_in_channel".into()),
            _ => return Err("channel_not_found".into()),
        };
        if request.path.ends_with("update") {
            // A channel's name will not do here.
            let ts = body["ts"].as_str().filter(|_| body["channel"] == channel).ok_or("channel_not_found")?;
            validate(&body, &["channel", "ts"]).map_err(|error| format!("invalid_arguments {error}"))?;
            let message = self.messages.get_mut(ts).ok_or("message_not_found")?;
            let thread = message["thread_ts"].take();
            *message = body.clone();
            message["thread_ts"] = thread;
            return Ok(json!({ "ok": true, "channel": channel, "ts": ts, "text": body["text"], "message": {} }));
        }
        validate(&body, &["channel", "thread_ts", "reply_broadcast"]).map_err(|error| format!("invalid_arguments {error}"))?;
        if body["thread_ts"].as_str().is_some_and(|thread| !self.messages.contains_key(thread)) {
            return Err("thread_not_found".into());
        }
        self.made += 1;
        let ts = format!("1771745400.{:06}", self.made);
        self.messages.insert(ts.clone(), body);
        Ok(json!({ "ok": true, "channel": channel, "ts": ts, "message": {} }))
    }
}

/// "Block Kit": "Header block", "Section block", "Context block", "Text object"; "Legacy attachments".
fn validate(body: &Value, more: &[&str]) -> Result<(), String> {
    let body = object(body, &[&["text", "blocks", "attachments"], more].concat())?;
    escaped(text(&body["text"], 4000)?, false)?;
    let attachments = list(&body["attachments"], 20)?;
    let mut blocks: Vec<&Value> = list(&body["blocks"], 50)?.iter().collect();
    for attachment in attachments {
        let attachment = object(attachment, &["color", "blocks"])?;
        let colour = attachment["color"].as_str().and_then(|colour| colour.strip_prefix('#')).ok_or("no colour")?;
        if colour.len() != 6 || !colour.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("no colour: {colour}"));
        }
        blocks.extend(list(&attachment["blocks"], 50)?);
    }
    if blocks.len() > 50 {
        return Err(format!("{} blocks", blocks.len()));
    }
    for block in blocks {
        match block["type"].as_str() {
            Some("header") => {
                let header = object(block, &["type", "text"])?;
                if shown(&header["text"], 150)? != "plain_text" {
                    return Err("a header is plain text".into());
                }
            }
            Some("section") => {
                let section = object(block, &["type", "text", "fields"])?;
                if let Some(text) = section.get("text") {
                    shown(text, 3000)?;
                } else if list(&section["fields"], 10)?.is_empty() {
                    return Err("an empty section".into());
                }
                for field in section.get("fields").map_or(Ok(&[][..]), |fields| list(fields, 10))? {
                    shown(field, 2000)?;
                }
            }
            Some("context") => {
                for element in list(&object(block, &["type", "elements"])?["elements"], 10)? {
                    shown(element, 3000)?;
                }
            }
            kind => return Err(format!("no such block: {kind:?}")),
        }
    }
    Ok(())
}

/// The type of a text object, if it is right.
fn shown(value: &Value, max: usize) -> Result<&str, String> {
    match value["type"].as_str() {
        Some("plain_text") => {
            let object = object(value, &["type", "text", "emoji"])?;
            escaped(text(&object["text"], max)?, false)?;
            Ok("plain_text")
        }
        Some("mrkdwn") => {
            let object = object(value, &["type", "text", "verbatim"])?;
            let content = text(&object["text"], max)?;
            if object["verbatim"] != true || content.matches("```").count() % 2 != 0 {
                return Err(format!("names become links, or a fence is open: {content}"));
            }
            escaped(content, true)?;
            Ok("mrkdwn")
        }
        kind => Err(format!("no text: {kind:?}")),
    }
}

/// What a reader sees, if nothing in it is an entity of Slack's, or only those that mention whom we mean.
fn escaped(text: &str, may_mention: bool) -> Result<String, String> {
    let mut rest = text.to_owned();
    if may_mention {
        rest = rest.replace("<@U012AB3CD>", "").replace("<!subteam^S0604QSJC>", "");
    }
    let entities: usize = ["&amp;", "&lt;", "&gt;"].map(|entity| rest.matches(entity).count()).iter().sum();
    if rest.contains(['<', '>']) || rest.matches('&').count() != entities {
        return Err(format!("not escaped: {text}"));
    }
    Ok(rest.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

fn body(message: &Message) -> Value {
    serde_json::from_slice(&golden::render("slack", message).text()).unwrap()
}

#[test]
fn whatever_there_is_to_say_is_valid() {
    let hook = webhook("http://127.0.0.1/");
    let mut calling = 0;
    for (name, message) in everything() {
        validate(&body(&message), &["channel", "ts", "thread_ts", "reply_broadcast"])
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let Rendered { parts, .. } = hook.notifier.render(&message, &sender());
        let hooked: Value = serde_json::from_slice(&parts[0]).unwrap();
        validate(&hooked, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mentions = hooked.to_string().contains("<@U012AB3CD> <!subteam^S0604QSJC>");
        assert_eq!(mentions, message.calls(), "{name}");
        calling += usize::from(mentions);
    }
    assert!(calling > 5);
}

#[test]
fn hostile_text_reads_as_it_is() {
    let body = body(&hostile_call());
    let sentence = body["attachments"][0]["blocks"][0]["text"]["text"].as_str().unwrap();
    let markup = "*b* _i_ ~s~ ||s|| `c` <b>&amp;</b> <@U1> <!channel> @everyone @here [l](https://example.org/) <script> {{7*7}} #a -b .c !d";
    assert!(escaped(sentence, false).unwrap().ends_with(markup), "{sentence}");
}

#[tokio::test]
async fn an_incident_is_one_message_and_its_thread() {
    let service = Service::start(Workspace::default()).await;
    let channel = to(config(bot(&format!("http://{}/api", service.address))));
    assert_eq!(channel.updates, Updates::InPlace);
    let told = Told::new();
    let first = tell(&channel, &told.begins()).await.unwrap().reference.unwrap();
    assert_eq!(first, "C024BE91L 1771745400.000001");
    assert_eq!(tell(&channel, &told.changes(Place::Replace(first.clone()))).await.unwrap().reference, None);
    let answer = tell(&channel, &told.worsens(Place::Answer(first.clone()))).await.unwrap().reference.unwrap();
    let held = |ts: &str| service.holds(|workspace| workspace.messages[ts].clone());
    let (root, reply) = (held("1771745400.000001"), held("1771745400.000002"));
    assert_eq!((&reply["thread_ts"], &reply["reply_broadcast"]), (&json!("1771745400.000001"), &json!(true)));
    assert!(reply["blocks"][1]["text"]["text"] == "<@U012AB3CD> <!subteam^S0604QSJC>" && root["blocks"][1].is_null());
    assert_eq!(root["text"], "[UPDATED] WARN web-01: CPU usage 95.2% exceeds threshold 90%");
    for reference in [&first, &answer] {
        tell(&channel, &told.ends(Place::Replace(reference.clone()))).await.unwrap();
    }
    for ts in ["1771745400.000001", "1771745400.000002"] {
        assert_eq!(held(ts)["blocks"][0]["text"]["text"], "[RESOLVED] CRITICAL web-01");
        assert!(held(ts)["blocks"][1].is_null() && held(ts)["attachments"][0]["color"] == "#2e8b57");
    }
    let expected = ["postMessage", "update", "postMessage", "update", "update"].map(|method| format!("POST /api/chat.{method}"));
    assert_eq!(service.requests(), expected);
}

#[tokio::test]
async fn what_is_gone_is_posted_anew() {
    let service = Service::start(Workspace::default()).await;
    let channel = to(config(bot(&format!("http://{}/api/", service.address))));
    let told = Told::new();
    let gone = "C024BE91L 1.2".to_owned();
    for message in [
        told.changes(Place::Replace(gone.clone())),
        told.worsens(Place::Answer(gone)),
        told.changes(Place::Replace("odd".into())),
    ] {
        let reference = tell(&channel, &message).await.unwrap().reference.unwrap();
        let (_, ts) = reference.split_once(' ').unwrap();
        let held = service.holds(|workspace| workspace.messages[ts].clone());
        assert!(held["thread_ts"].is_null() && held["channel"] == "#ops", "{held}");
    }
    let first = tell(&channel, &told.begins()).await.unwrap().reference.unwrap();
    service.next(Reply::json(200, json!({ "ok": false, "error": "cant_update_message" })));
    assert!(tell(&channel, &told.changes(Place::Replace(first))).await.unwrap().reference.is_some());
}

#[tokio::test]
async fn the_bots_refusals_are_judged() {
    let service = Service::start(Workspace::default()).await;
    let api = format!("http://{}/api/", service.address);
    let told = Told::new();
    let limited = Reply::json(429, json!({ "ok": false, "error": "ratelimited" })).header("retry-after", "30");
    let passing = [
        (limited, Some(Duration::from_secs(30)), "429 Too Many Requests: ratelimited"),
        (Reply::json(200, json!({ "ok": false, "error": "fatal_error" })), None, "refused the message: fatal_error"),
        (Reply::new(503, "upstream"), None, "503 Service Unavailable: upstream"),
    ];
    for (reply, expected, says) in passing {
        service.next(reply);
        match tell(&to(config(bot(&api))), &told.begins()).await.unwrap_err() {
            SendError::Retry { reason, after } => assert!(after == expected && reason.ends_with(says), "{reason} {after:?}"),
            error => panic!("{error}"),
        }
    }
    let in_channel = |name: &str| config::Slack { channel: Some(name.into()), ..config(bot(&api)) };
    let wrong = SlackAccess::Bot { token: Secret::new("xoxb-17-sekret".into()), api_url: Secret::new(api.clone()) };
    let elsewhere = bot(&format!("http://{}/", service.address));
    for (slack, says) in [
        (config(wrong), "invalid_auth; the token is wrong or was revoked; write the app's bot token to alerting.slack.bot_token"),
        (in_channel("#none"), "channel_not_found; check alerting.slack.channel, and invite the app into it"),
        (in_channel("#private"), "not_in_channel; invite the app into the channel"),
        (config(elsewhere), "404 Not Found; check alerting.slack.api_url"),
    ] {
        refused(&to(slack), says).await;
    }
    service.next(Reply::json(200, json!({ "ok": false, "error": "msg_blocks_too_long" })));
    refused(&to(config(bot(&api))), "msg_blocks_too_long; the message was refused as such, which is a defect").await;
}

async fn refused(channel: &Channel, says: &str) {
    let error = tell(channel, &Told::new().begins()).await.unwrap_err();
    assert!(matches!(error, SendError::Permanent { .. }), "{error}");
    assert!(error.to_string().contains(says) && !format!("{error:?}{channel:?}").contains("sec"), "{error}");
}

#[tokio::test]
async fn a_webhook_posts_and_its_refusals_are_judged() {
    let service = Service::start(Workspace::default()).await;
    let good = webhook(&format!("http://{}/services/T1/B1/secret", service.address));
    assert_eq!(good.updates, Updates::Separate);
    let told = Told::new();
    assert_eq!(tell(&good, &told.begins()).await.unwrap().reference, None);
    tell(&good, &hostile_call()).await.unwrap();
    assert_eq!(service.holds(|workspace| workspace.hooked.len()), 2);
    refused(
        &webhook(&format!("http://{}/services/T1/B2/secret", service.address)),
        "404 Not Found: no_service; the webhook was removed",
    )
    .await;
    for (reply, says) in [
        (Reply::new(400, "invalid_payload"), "400 Bad Request: invalid_payload; the message was refused as such"),
        (Reply::new(403, "action_prohibited"), "403 Forbidden: action_prohibited; the channel is gone, archived or closed"),
        (Reply::new(404, "channel_not_found"), "404 Not Found: channel_not_found; the channel is gone"),
        (Reply::new(410, "channel_is_archived"), "410 Gone: channel_is_archived; the channel is gone"),
        (Reply::new(302, ""), "302 Found; check alerting.slack.webhook_url"),
    ] {
        service.next(reply);
        refused(&good, says).await;
    }
    for (reply, expected) in [
        (Reply::new(200, "<html>"), None),
        (Reply::new(429, "rate_limited").header("retry-after", "7"), Some(Duration::from_secs(7))),
        (Reply::new(500, "rollup_error"), None),
    ] {
        service.next(reply);
        let error = tell(&good, &told.begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { after, .. } if after == expected), "{error:?}");
    }
}

#[tokio::test]
async fn a_page_is_no_acceptance() {
    let service = Service::start(Workspace::default()).await;
    let channel = to(config(bot(&format!("http://{}/api/", service.address))));
    for page in ["<html>", "", "{}"] {
        service.next(Reply::new(200, page));
        let error = tell(&channel, &Told::new().begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { .. }), "{error:?}");
        assert!(
            error.to_string().contains("200 OK, but not as the service does; see who answers there, and check alerting.slack."),
            "{error}"
        );
    }
}
