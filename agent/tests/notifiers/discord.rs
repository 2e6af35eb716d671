//! Discord against a webhook that answers as its documentation says ("Webhook Resource", "Message Resource", "Rate Limits", "Opcodes
//! and Status Codes"), and refuses what it would refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sysops_agent::config::{self, Config, Secret};
use sysops_agent::model::{Place, Severities, Severity};
use sysops_agent::notifiers::{Channel, SendError, Updates};

use super::chats::{Told, everything, hostile_call, list, object, tell, text};
use super::service::{Protocol, Reply, Request, Service};
use super::{channel, golden};

const ROLES: [&str; 2] = ["123456789012345678", "987654321098765432"];

pub fn config(url: &str) -> config::Discord {
    config::Discord {
        webhook_url: Secret::new(url.into()),
        username: "sysops-agent".into(),
        mention_roles: ROLES.map(str::to_owned).into(),
        embed_color_warn: 0xff_a500,
        embed_color_critical: 0xff_0000,
        embed_color_emergency: 0x8b_0000,
        severities: Severities::from(Severity::Warn),
    }
}

fn to(url: &str) -> Channel {
    let mut whole = Config::default();
    whole.alerting.discord = Some(config(url));
    channel("discord", &whole).unwrap().unwrap()
}

/// A webhook with the messages that it has posted.
#[derive(Default)]
struct Webhook {
    messages: BTreeMap<u64, Value>,
    /// Roles that a message has called, and "everyone".
    called: Vec<String>,
    made: u64,
}

impl Protocol for Webhook {
    fn answer(&mut self, request: &Request) -> Reply {
        let refuse = |status, code: i64, message: &str| Reply::json(status, json!({ "message": message, "code": code }));
        let path: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let (method, rest) = match path.as_slice() {
            ["api", "webhooks", "77", "secret-token", rest @ ..] => (request.method.as_str(), rest),
            ["api", "webhooks", "77", ..] => return refuse(401, 50_027, "Invalid Webhook Token"),
            ["api", "webhooks", ..] => return refuse(404, 10_015, "Unknown Webhook"),
            _ => return refuse(404, 0, "404: Not Found"),
        };
        if request.asked("thread_id").is_some_and(|thread| thread != "4711") {
            return refuse(404, 10_003, "Unknown Channel");
        }
        let Some(body) = request.json() else { return refuse(400, 50_109, "The request body contains invalid JSON.") };
        if let Err(error) = validate(&body, method == "POST") {
            return Reply::json(400, json!({ "message": "Invalid Form Body", "code": 50_035, "errors": error }));
        }
        match (method, rest) {
            ("POST", []) => {
                self.made += 1;
                let id = 1_000_000_000_000_000_000 + self.made;
                self.called.extend(calls(&body));
                self.messages.insert(id, body.clone());
                match request.asked("wait") {
                    Some("true") => Reply::json(200, json!({ "id": id.to_string(), "type": 0, "embeds": body["embeds"] })),
                    _ => Reply::new(204, ""),
                }
            }
            ("PATCH", ["messages", id]) => match id.parse().ok().and_then(|id: u64| self.messages.get_mut(&id)) {
                Some(message) => {
                    *message = body;
                    Reply::json(200, json!({ "id": id, "type": 0 }))
                }
                None => refuse(404, 10_008, "Unknown Message"),
            },
            _ => refuse(405, 0, "405: Method Not Allowed"),
        }
    }
}

/// Whom a message calls: what its content mentions, as far as `allowed_mentions` lets it. Embeds call nobody.
fn calls(body: &Value) -> Vec<String> {
    let content = body["content"].as_str().unwrap_or_default();
    let parses = |kind: &str| match &body["allowed_mentions"] {
        Value::Null => true,
        allowed => allowed["parse"].as_array().is_some_and(|kinds| kinds.iter().any(|found| found == kind)),
    };
    let mut called = Vec::new();
    if parses("everyone") && (content.contains("@everyone") || content.contains("@here")) {
        called.push("everyone".into());
    }
    for mention in content.split("<@&").skip(1).filter_map(|rest| rest.split_once('>')) {
        let named = body["allowed_mentions"]["roles"].as_array().is_some_and(|roles| roles.iter().any(|role| role == mention.0));
        if named || parses("roles") {
            called.push(mention.0.to_owned());
        }
    }
    called
}

/// "Webhook Resource", sections "Execute Webhook" and "Edit Webhook Message"; "Message Resource", sections "Embed Object", "Embed
/// Limits" and "Allowed Mentions Object".
fn validate(body: &Value, is_new: bool) -> Result<(), String> {
    let keys = ["content", "embeds", "allowed_mentions", "username"];
    let body = object(body, keys.get(..if is_new { 4 } else { 3 }).unwrap())?;
    if let Some(name) = body.get("username") {
        text(name, 80)?;
    }
    let content = body["content"].as_str().ok_or("no content")?;
    if content.encode_utf16().count() > 2000 {
        return Err("content is too long".into());
    }
    let allowed = object(&body["allowed_mentions"], &["parse", "roles"])?;
    list(&allowed["roles"], 100)?;
    let embeds = list(&body["embeds"], 10)?;
    let mut total = 0;
    for embed in embeds {
        let embed = object(embed, &["title", "description", "color", "fields", "footer"])?;
        let mut take = |value: &Value, max| text(value, max).map(|text| total += text.encode_utf16().count());
        for (key, max) in [("title", 256), ("description", 4096)] {
            embed.get(key).map_or(Ok(()), |value| take(value, max))?;
        }
        if let Some(footer) = embed.get("footer") {
            take(&object(footer, &["text"])?["text"], 2048)?;
        }
        if embed["color"].as_u64().is_none_or(|color| color > 0xff_ffff) {
            return Err("no colour".into());
        }
        for field in embed.get("fields").map_or(Ok(&[][..]), |fields| list(fields, 25))? {
            let field = object(field, &["name", "value", "inline"])?;
            take(&field["name"], 256)?;
            take(&field["value"], 1024)?;
        }
        if embed.len() < 2 {
            return Err("an empty embed".into());
        }
    }
    if total > 6000 || embeds.is_empty() {
        return Err(format!("{total} characters in {} embeds", embeds.len()));
    }
    Ok(())
}

/// Markdown as a reader sees it, if nothing in it is formatted.
fn literal(markdown: &str) -> Result<String, String> {
    let mut literal = String::new();
    let mut chars = markdown.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => literal.extend(chars.next().filter(char::is_ascii_punctuation)),
            ':' if chars.peek().is_none_or(|next| next.is_whitespace()) => literal.push(c),
            '*' | '_' | '~' | '|' | '`' | '<' | '>' | '[' | ']' | '@' | '#' | ':' => {
                return Err(format!("{c} acts in {markdown}"));
            }
            c => literal.push(c),
        }
    }
    Ok(literal)
}

#[test]
fn whatever_there_is_to_say_is_valid_and_literal() {
    for (name, message) in everything() {
        let body: Value = serde_json::from_slice(&golden::render("discord", &message).text()).unwrap();
        let is_new = !matches!(message.place, Place::Replace(_));
        validate(&body, is_new).unwrap_or_else(|error| panic!("{name}: {error}"));
        for embed in body["embeds"].as_array().unwrap() {
            let fields = embed["fields"].as_array().cloned().unwrap_or_default();
            let texts =
                fields.iter().flat_map(|field| [&field["name"], &field["value"]]).chain([&embed["title"], &embed["description"]]);
            for text in texts.filter_map(Value::as_str) {
                match text.strip_prefix("```\n").and_then(|text| text.strip_suffix("\n```")) {
                    Some(code) => assert!(!code.contains("``"), "{name}: {code}"),
                    None => drop(literal(text).unwrap_or_else(|error| panic!("{name}: {error}"))),
                }
            }
        }
    }
}

#[test]
fn hostile_text_reads_as_it_is() {
    let body: Value = serde_json::from_slice(&golden::render("discord", &hostile_call()).text()).unwrap();
    let shown = literal(body["embeds"][0]["description"].as_str().unwrap()).unwrap();
    let markup = "*b* _i_ ~s~ ||s|| `c` <b>&amp;</b> <@U1> <!channel> @everyone @here [l](https://example.org/) <script> {{7*7}} #a -b .c !d";
    assert!(shown.ends_with(markup) && shown.contains(r"back\slash"), "{shown}");
    assert_eq!(calls(&body), ROLES);
}

#[tokio::test]
async fn an_incident_is_one_message_until_somebody_has_to_be_called() {
    let service = Service::start(Webhook::default()).await;
    let channel = to(&format!("http://{}/api/webhooks/77/secret-token?thread_id=4711&wait=false", service.address));
    assert!(channel.updates == Updates::InPlace && channel.retry.count == 3);
    let told = Told::new();
    let first = tell(&channel, &told.begins()).await.unwrap().reference.unwrap();
    assert_eq!(tell(&channel, &told.changes(Place::Replace(first.clone()))).await.unwrap().reference, None);
    assert_eq!(service.holds(|webhook| webhook.called.len()), 0);
    let second = tell(&channel, &told.worsens(Place::Answer(first.clone()))).await.unwrap().reference.unwrap();
    assert_eq!(service.holds(|webhook| std::mem::take(&mut webhook.called)), ROLES);
    tell(&channel, &told.ends(Place::Replace(second.clone()))).await.unwrap();
    let message = |id: &str| service.holds(|webhook| webhook.messages[&id.parse().unwrap()].clone());
    assert!(message(&first)["embeds"][0]["title"].as_str().unwrap().contains("UPDATED"));
    assert!(message(&second)["embeds"][0]["title"].as_str().unwrap().contains("RESOLVED"));
    assert_eq!(message(&second)["content"], "");
    assert_eq!(service.holds(|webhook| (webhook.messages.len(), webhook.called.len())), (2, 0));
    let address = "/api/webhooks/77/secret-token";
    let expected = [
        format!("POST {address}?thread_id=4711&wait=true"),
        format!("PATCH {address}/messages/{first}?thread_id=4711"),
        format!("POST {address}?thread_id=4711&wait=true"),
        format!("PATCH {address}/messages/{second}?thread_id=4711"),
    ];
    assert_eq!(service.requests(), expected);
}

#[tokio::test]
async fn what_was_deleted_is_posted_anew() {
    let service = Service::start(Webhook::default()).await;
    let channel = to(&format!("http://{}/api/webhooks/77/secret-token/", service.address));
    let told = Told::new();
    for gone in ["1000000000000000009", "not an id", "../x"] {
        let reference = tell(&channel, &told.changes(Place::Replace(gone.into()))).await.unwrap().reference.unwrap();
        let message = service.holds(|webhook| webhook.messages[&reference.parse().unwrap()].clone());
        assert_eq!(message["username"], "sysops-agent");
    }
    assert_eq!(service.holds(|webhook| webhook.messages.len()), 3);
}

#[tokio::test]
async fn refusals_are_judged() {
    let service = Service::start(Webhook::default()).await;
    let good = format!("http://{}/api/webhooks/77/secret-token", service.address);
    let told = Told::new();
    let limited = Reply::json(429, json!({ "message": "You are being rate limited.", "retry_after": 0.375, "global": false }));
    let cloud = Reply::new(429, "error code: 1015").header("retry-after", "600");
    let cases = [
        (limited.header("retry-after", "1"), Duration::from_millis(375), "429 Too Many Requests: You are being rate limited."),
        (cloud, Duration::from_secs(600), "429 Too Many Requests"),
    ];
    for (reply, expected, says) in cases {
        for place in [Place::New, Place::Replace("1000000000000000001".into())] {
            service.next(reply.clone());
            match tell(&to(&good), &told.changes(place)).await.unwrap_err() {
                SendError::Retry { reason, after } => {
                    assert!(after == Some(expected) && reason.ends_with(says), "{reason} {after:?}")
                }
                error => panic!("{error}"),
            }
        }
    }
    service.next(Reply::new(502, "<html>"));
    assert!(matches!(tell(&to(&good), &told.begins()).await, Err(SendError::Retry { after: None, .. })));

    let base = format!("http://{}/api/webhooks", service.address);
    for (url, says) in [
        (format!("{base}/78/secret-token"), "404 Not Found: Unknown Webhook; the webhook was removed"),
        (format!("{base}/77/secret-taken"), "401 Unauthorized: Invalid Webhook Token; the webhook was removed"),
        (format!("{base}/77/secret-token?thread_id=1"), "404 Not Found: Unknown Channel; the channel or thread is gone"),
        (format!("http://{}/secret-token", service.address), "404 Not Found: 404: Not Found; check alerting.discord.webhook_url"),
    ] {
        let error = tell(&to(&url), &told.begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Permanent { .. }), "{error}");
        assert!(error.to_string().contains(says) && !error.to_string().contains("secret"), "{error}");
    }
    service.next(Reply::json(
        400,
        json!({ "message": "Webhooks posted to forum channels must have a thread_name or thread_id", "code": 220_001 }),
    ));
    let error = tell(&to(&good), &told.begins()).await.unwrap_err();
    assert!(error.to_string().ends_with("add ?thread_id= and the id of a thread to alerting.discord.webhook_url"), "{error}");
}

#[tokio::test]
async fn a_page_is_no_acceptance() {
    let service = Service::start(Webhook::default()).await;
    let channel = to(&format!("http://{}/api/webhooks/77/secret-token", service.address));
    for page in ["<html>"] {
        service.next(Reply::new(200, page));
        let error = tell(&channel, &Told::new().begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { .. }), "{error:?}");
        assert!(
            error.to_string().contains("200 OK, but not as the service does; see who answers there, and check alerting.discord."),
            "{error}"
        );
    }
}
