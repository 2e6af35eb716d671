//! Telegram against a bot API that answers as its documentation says ("Making requests", "sendMessage", "editMessageText", "Formatting
//! options", "ResponseParameters"), takes markup apart, and refuses what it would refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sysops_agent::config::{self, Config, ParseMode, Secret};
use sysops_agent::model::{Message, Place, Severities, Severity};
use sysops_agent::notifiers::{Channel, SendError, Updates};

use super::chats::{Told, everything, hostile_call, object, tell};
use super::service::{Protocol, Reply, Request, Service};
use super::{channel, sender};

pub fn config(api_url: &str, parse_mode: ParseMode) -> config::Telegram {
    config::Telegram {
        bot_token: Secret::new("17:secret".into()),
        api_url: Secret::new(api_url.into()),
        chat_id: "-1001234567890".into(),
        parse_mode,
        disable_notification: false,
        severities: Severities::from(Severity::Warn),
    }
}

fn to(telegram: config::Telegram) -> Channel {
    let mut whole = Config::default();
    whole.alerting.telegram = Some(telegram);
    channel("telegram", &whole).unwrap().unwrap()
}

/// A bot's view of its chats.
#[derive(Default)]
struct Bot {
    messages: BTreeMap<i64, Value>,
    made: i64,
    /// Refuses all markup.
    is_picky: bool,
}

/// A refusal: status, what it says, and parameters.
type Refusal = (u16, String, Value);

fn bad(what: &str) -> Refusal {
    (400, format!("Bad Request: {what}"), Value::Null)
}

impl Protocol for Bot {
    fn answer(&mut self, request: &Request) -> Reply {
        match self.method(request) {
            Ok(result) => Reply::json(200, json!({ "ok": true, "result": result })),
            Err((status, description, Value::Null)) => {
                Reply::json(status, json!({ "ok": false, "error_code": status, "description": description }))
            }
            Err((status, description, parameters)) => Reply::json(
                status,
                json!({ "ok": false, "error_code": status, "description": description, "parameters": parameters }),
            ),
        }
    }
}

impl Bot {
    fn method(&mut self, request: &Request) -> Result<Value, Refusal> {
        let path = request.path.strip_prefix("/bot").ok_or((404, "Not Found".into(), Value::Null))?;
        let (token, method) = path.split_once('/').ok_or((404, "Not Found".into(), Value::Null))?;
        if token != "17:secret" {
            return Err((401, "Unauthorized".into(), Value::Null));
        }
        let body = request.json().ok_or_else(|| bad("can't parse JSON object"))?;
        validate(&body, method).map_err(|error| bad(&error))?;
        match body["chat_id"].as_i64() {
            Some(-1_001_234_567_890 | -1_000_000_000_055) => {}
            Some(-55) => {
                let moved = json!({ "migrate_to_chat_id": -1_000_000_000_055_i64 });
                return Err((400, "Bad Request: group chat was upgraded to a supergroup chat".into(), moved));
            }
            Some(-66) => return Err((403, "Forbidden: bot was kicked from the supergroup chat".into(), Value::Null)),
            _ => return Err(bad("chat not found")),
        }
        let text = match (body["parse_mode"].as_str(), body["text"].as_str().unwrap()) {
            (Some(_), _) if self.is_picky => {
                return Err(bad("can't parse entities: Unsupported start tag \"b\" at byte offset 5"));
            }
            (Some("HTML"), text) => html(text),
            (Some(_), text) => markdown(text),
            (None, text) => Ok(text.to_owned()),
        };
        let text = text.map_err(|error| bad(&format!("can't parse entities: {error}")))?;
        if text.trim().is_empty() || text.encode_utf16().count() > 4096 {
            return Err(bad("message is too long"));
        }
        let mut message = json!({ "text": text, "silent": body["disable_notification"], "chat": body["chat_id"] });
        if method == "editMessageText" {
            let id = body["message_id"].as_i64().unwrap();
            let held = self.messages.get_mut(&id).ok_or_else(|| bad("message to edit not found"))?;
            if held["text"] == message["text"] {
                let same = "specified new message content and reply markup are exactly the same as a current content and reply markup of the message";
                return Err(bad(&format!("message is not modified: {same}")));
            }
            held["text"] = text.into();
            return Ok(json!({ "message_id": id }));
        }
        let answered = &body["reply_parameters"];
        match answered["message_id"].as_i64() {
            Some(id) if self.messages.contains_key(&id) => message["answers"] = id.into(),
            Some(_) if answered["allow_sending_without_reply"] != true => return Err(bad("message to be replied not found")),
            _ => {}
        }
        self.made += 1;
        self.messages.insert(self.made, message);
        Ok(json!({ "message_id": self.made, "date": 0, "chat": {} }))
    }
}

/// The parameters of the two methods.
fn validate(body: &Value, method: &str) -> Result<(), String> {
    let all = ["chat_id", "text", "parse_mode", "link_preview_options", "disable_notification", "reply_parameters"];
    let (keys, change) = match method {
        "sendMessage" => (&all[..], false),
        "editMessageText" => (&["chat_id", "text", "parse_mode", "link_preview_options", "message_id"][..], true),
        _ => return Err("no such method".into()),
    };
    let body = object(body, keys)?;
    let is_mode = body.get("parse_mode").is_none_or(|mode| mode == "HTML" || mode == "MarkdownV2");
    let is_id = |value: &Value| value.is_i64() || value.as_str().is_some_and(|name| name.starts_with('@'));
    if !is_mode || !is_id(&body["chat_id"]) || !body["text"].is_string() || change != body.contains_key("message_id") {
        return Err("a parameter is wrong".into());
    }
    if body["link_preview_options"] != json!({ "is_disabled": true }) {
        return Err("links are previewed".into());
    }
    Ok(())
}

/// HTML without its markup; "HTML style": these tags, these entities, and all else escaped. No tag may stand in code.
fn html(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '>', '&']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some((entity, shown)) =
            [("&lt;", '<'), ("&gt;", '>'), ("&amp;", '&'), ("&quot;", '"')].iter().find(|(entity, _)| rest.starts_with(entity))
        {
            plain.push(*shown);
            rest = &rest[entity.len()..];
            continue;
        }
        let (tag, after) =
            rest.strip_prefix('<').and_then(|rest| rest.split_once('>')).ok_or(format!("stray character in {rest}"))?;
        match tag.strip_prefix('/') {
            Some(tag) if open.pop() == Some(tag) => {}
            None if ["b", "i", "code", "pre"].contains(&tag) && open.is_empty() => open.push(tag),
            _ => return Err(format!("tag {tag} in {open:?}")),
        }
        rest = after;
    }
    plain.push_str(rest);
    if open.is_empty() { Ok(plain) } else { Err(format!("{open:?} not closed")) }
}

/// MarkdownV2 without its markup: all reserved characters are markup or behind a backslash.
fn markdown(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut open: Option<&str> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_code = matches!(open, Some("`" | "```"));
        if c == '\\' {
            let escaped = rest[1..].chars().next().filter(|c| ('\u{1}'..='\u{7e}').contains(c)).ok_or("a lone backslash")?;
            plain.push(escaped);
            rest = &rest[1 + escaped.len_utf8()..];
            continue;
        }
        let mark = ["```", "`", "*", "_"].into_iter().find(|mark| rest.starts_with(mark) && (!is_code || mark.starts_with('`')));
        if let Some(mark) = mark {
            rest = &rest[mark.len()..];
            match open {
                None => open = Some(mark),
                Some(before) if before == mark => open = None,
                Some(before) => return Err(format!("{mark} in {before}")),
            }
            if mark == "```" {
                rest = if open.is_some() { rest.strip_prefix('\n').ok_or("a language")? } else { rest };
                plain.truncate(plain.strip_suffix('\n').filter(|_| open.is_none()).map_or(plain.len(), str::len));
            }
            continue;
        }
        if !is_code && "_*[]()~`>#+-=|{}.!".contains(c) {
            return Err(format!("character {c} is reserved: {text}"));
        }
        plain.push(c);
        rest = &rest[c.len_utf8()..];
    }
    open.map_or(Ok(plain), |open| Err(format!("{open} not closed")))
}

#[test]
fn whatever_there_is_to_say_is_valid_and_reads_as_without_markup() {
    for mode in [ParseMode::Html, ParseMode::MarkdownV2] {
        let channel = to(config("http://127.0.0.1/", mode));
        for (name, message) in everything() {
            let rendered = channel.notifier.render(&message, &sender());
            let [body, plain] = rendered.parts.as_slice() else { panic!("{name}: {} parts", rendered.parts.len()) };
            let body: Value = serde_json::from_slice(body).unwrap();
            let change = matches!(message.place, Place::Replace(_));
            validate(&body, if change { "editMessageText" } else { "sendMessage" })
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let text = body["text"].as_str().unwrap();
            let read = if mode == ParseMode::Html { html(text) } else { markdown(text) };
            let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(read, String::from_utf8(plain.to_vec()).unwrap(), "{name}");
            let length = read.encode_utf16().count();
            assert!((20..=4096).contains(&length), "{name}: {length}");
            assert!(!name.starts_with("huge") || length > 3500, "{name} leaves room: {length}");
        }
    }
}

#[test]
fn hostile_text_notifies_nobody() {
    let rendered = to(config("http://127.0.0.1/", ParseMode::Html)).notifier.render(&hostile_call(), &sender());
    let body: Value = serde_json::from_slice(&rendered.parts[0]).unwrap();
    let mut text = body["text"].as_str().unwrap().to_owned();
    for kind in ["code", "pre"] {
        while let Some((before, rest)) = text.split_once(&format!("<{kind}>")) {
            text = format!("{before}{}", rest.split_once(&format!("</{kind}>")).unwrap().1);
        }
    }
    assert!(text.contains("@\u{2060}everyone") && !text.replace("@\u{2060}", "").contains('@'), "{text}");
}

#[tokio::test]
async fn an_incident_is_one_message_and_answers_to_it() {
    for mode in [ParseMode::Html, ParseMode::MarkdownV2] {
        let service = Service::start(Bot::default()).await;
        let channel = to(config(&format!("http://{}", service.address), mode));
        assert_eq!(channel.updates, Updates::InPlace);
        let told = Told::new();
        let first = tell(&channel, &told.begins()).await.unwrap().reference.unwrap();
        assert_eq!(first, "1");
        assert_eq!(tell(&channel, &told.changes(Place::Replace(first.clone()))).await.unwrap().reference, None);
        // The same again, as after an answer that was lost on its way.
        let again = tell(&channel, &told.changes(Place::Replace(first.clone()))).await.unwrap();
        assert!(again.reference.is_none() && again.answer.contains("not modified"), "{again:?}");
        let second = tell(&channel, &told.worsens(Place::Answer(first.clone()))).await.unwrap().reference.unwrap();
        assert_eq!(
            service.holds(|bot| (bot.messages[&2]["answers"].clone(), bot.messages[&2]["silent"].clone())),
            (json!(1), json!(false))
        );
        for reference in [first, second] {
            tell(&channel, &told.ends(Place::Replace(reference))).await.unwrap();
        }
        for message in service.holds(|bot| bot.messages.clone()).into_values() {
            assert!(message["text"].as_str().unwrap().starts_with("🟢 [RESOLVED] CRITICAL web-01\n\nCPU usage"), "{message}");
        }
        let methods: Vec<_> = service.requests().into_iter().map(|line| line.replace("POST /bot17:secret/", "")).collect();
        assert_eq!(
            methods,
            ["sendMessage", "editMessageText", "editMessageText", "sendMessage", "editMessageText", "editMessageText"]
        );
    }
}

#[tokio::test]
async fn what_is_gone_is_sent_anew_and_refused_markup_as_text() {
    let service = Service::start(Bot::default()).await;
    let api = format!("http://{}/", service.address);
    let channel = to(config::Telegram { disable_notification: true, ..config(&api, ParseMode::Html) });
    let told = Told::new();
    let gone = |place: fn(String) -> Place| [told.changes(place("77".into())), told.changes(place("odd".into()))];
    for message in [gone(Place::Replace), gone(Place::Answer)].concat() {
        let id = tell(&channel, &message).await.unwrap().reference.unwrap();
        let held = service.holds(|bot| bot.messages[&id.parse().unwrap()].clone());
        assert!(held["answers"].is_null() && held["silent"] == true, "{held}");
    }
    // All at once: markup refused, message gone.
    service.holds(|bot| bot.is_picky = true);
    let id = tell(&channel, &hostile_change("78")).await.unwrap().reference.unwrap();
    let text = service.holds(|bot| bot.messages[&id.parse().unwrap()]["text"].clone());
    assert!(text.as_str().unwrap().contains("<script> {{7*7}} #a -b .c !d"), "{text}");
}

fn hostile_change(id: &str) -> Message {
    Message { place: Place::Replace(id.into()), ..hostile_call() }
}

#[tokio::test]
async fn a_group_that_became_a_supergroup_is_followed() {
    let service = Service::start(Bot::default()).await;
    let api = format!("http://{}/", service.address);
    let channel = to(config::Telegram { chat_id: "-55".into(), ..config(&api, ParseMode::Html) });
    for _ in 0..2 {
        tell(&channel, &Told::new().begins()).await.unwrap();
    }
    assert_eq!(service.requests().len(), 3, "it asks once");
    assert!(service.holds(|bot| bot.messages.values().all(|message| message["chat"] == -1_000_000_000_055_i64)));
}

#[tokio::test]
async fn refusals_are_judged() {
    let service = Service::start(Bot::default()).await;
    let api = format!("http://{}/", service.address);
    let told = Told::new();
    let limited = json!({ "ok": false, "error_code": 429, "description": "Too Many Requests: retry after 35", "parameters": { "retry_after": 35 } });
    for (reply, expected) in [
        (Reply::json(429, limited), Some(Duration::from_secs(35))),
        (Reply::json(500, json!({ "ok": false, "error_code": 500, "description": "Internal Server Error" })), None),
        (Reply::new(502, "<html>"), None),
    ] {
        service.next(reply);
        let error = tell(&to(config(&api, ParseMode::Html)), &told.begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { after, .. } if after == expected), "{error:?}");
    }
    let in_chat = |chat: &str| config::Telegram { chat_id: chat.into(), ..config(&api, ParseMode::Html) };
    let wrong = config::Telegram { bot_token: Secret::new("17:sekret".into()), ..config(&api, ParseMode::Html) };
    for (telegram, says) in [
        (wrong, "401 Unauthorized: Unauthorized; the token is wrong or was revoked; write the one that BotFather gives"),
        (config(&format!("{api}x/"), ParseMode::Html), "404 Not Found: Not Found; check alerting.telegram.bot_token, and"),
        (in_chat("-66"), "403 Forbidden: Forbidden: bot was kicked from the supergroup chat; add the bot to the chat again"),
        (in_chat("@nobody"), "400 Bad Request: Bad Request: chat not found; check alerting.telegram.chat_id"),
    ] {
        refused(&to(telegram), says).await;
    }
    service.next(Reply::json(
        400,
        json!({ "ok": false, "description": "Bad Request: not enough rights to send text messages to the chat" }),
    ));
    refused(&to(in_chat("1")), "give the bot the right to send messages there").await;
    let gone = service.address;
    drop(service);
    let unreachable = tell(&to(config(&format!("http://{gone}"), ParseMode::Html)), &told.begins()).await.unwrap_err();
    assert!(!format!("{unreachable:?}").contains("secret"), "{unreachable:?}");
}

async fn refused(channel: &Channel, says: &str) {
    let error = tell(channel, &Told::new().begins()).await.unwrap_err();
    assert!(matches!(error, SendError::Permanent { .. }), "{error}");
    assert!(error.to_string().contains(says) && !format!("{error:?}{channel:?}").contains("secret"), "{error}");
}

#[tokio::test]
async fn a_page_is_no_acceptance() {
    let service = Service::start(Bot::default()).await;
    let channel = to(config(&format!("http://{}/", service.address), ParseMode::Html));
    for page in ["<html>", "", "{}"] {
        service.next(Reply::new(200, page));
        let error = tell(&channel, &Told::new().begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("200 OK, but not as the service does; see who answers there, and check alerting.telegram."),
            "{error}"
        );
    }
}
