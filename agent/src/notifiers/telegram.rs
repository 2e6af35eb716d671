//! Telegram: a bot's messages to a chat, in HTML or MarkdownV2.
//!
//! A message has two parts: what is sent, and the same text without markup, which is sent where the markup is refused. The token is part
//! of the path, which no error shows.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::http::{Answer, Clients, Endpoint, TIMEOUT};
use super::post::{Post, Tone, fold, frame, fullest, utf16};
use super::template::{Escape, Template};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, ParseMode, Secret};
use crate::model::{Message, Place};

pub(super) const ROW: Row = Row {
    name: "telegram",
    summary: "a Telegram chat",
    build: |config, clients| {
        let Some(telegram) = &config.alerting.telegram else { return Ok(None) };
        let template = Template::of(config, ROW.name);
        let notifier = Telegram::new(telegram, clients, template).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: telegram.severities,
            retry: RETRY,
            updates: Updates::InPlace,
            refresh: None,
            is_screen: false,
        }))
    },
};

/// "sendMessage": characters of a text after entities parsing, in UTF-16 code units as offsets of entities are ("MessageEntity").
const TEXT_MAX: usize = 4096;
/// Alerts of a group that are shown.
const ALERTS_MAX: usize = 40;
/// Characters of one list.
const LIST_MAX: usize = 2500;

struct Telegram {
    endpoint: Endpoint,
    token: Secret,
    chat: String,
    parse_mode: ParseMode,
    is_silent: bool,
    /// The supergroup that the chat became while the agent ran; 0 where it did not.
    migrated: AtomicI64,
    template: Option<Template>,
}

impl Telegram {
    fn new(telegram: &config::Telegram, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let endpoint = Endpoint::new(clients, "alerting.telegram.api_url", &telegram.api_url, TIMEOUT)?;
        Ok(Self {
            endpoint,
            token: telegram.bot_token.clone(),
            chat: telegram.chat_id.clone(),
            parse_mode: telegram.parse_mode,
            is_silent: telegram.disable_notification,
            migrated: AtomicI64::new(0),
            template,
        })
    }

    fn body(&self, text: &str, place: &Place) -> Value {
        let mut body = json!({
            "chat_id": chat(&self.chat),
            "text": text,
            "parse_mode": match self.parse_mode { ParseMode::Html => "HTML", ParseMode::MarkdownV2 => "MarkdownV2" },
            "link_preview_options": { "is_disabled": true },
        });
        match place {
            Place::Replace(id) if number(id).is_some() => body["message_id"] = number(id).into(),
            Place::Answer(id) if number(id).is_some() => {
                body["disable_notification"] = self.is_silent.into();
                body["reply_parameters"] = json!({ "message_id": number(id), "allow_sending_without_reply": true });
            }
            _ => body["disable_notification"] = self.is_silent.into(),
        }
        body
    }

    async fn deliver(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let [marked, plain] = message.parts.as_slice() else {
            return Err(SendError::Permanent { reason: "a message for Telegram has two parts".into() });
        };
        let mut body: Map<String, Value> = serde_json::from_slice(marked).unwrap_or_default();
        // Each of the remedies below works once.
        for _ in 0..4 {
            let moved = self.migrated.load(Relaxed);
            if moved != 0 {
                body.insert("chat_id".into(), moved.into());
            }
            let is_change = body.contains_key("message_id");
            let answer = self.call(if is_change { "editMessageText" } else { "sendMessage" }, &body).await?;
            let said = answer.json();
            if answer.status.is_success() && said["ok"] == true {
                let id = said["result"]["message_id"].as_i64().filter(|_| !is_change);
                return Ok(Accepted { reference: id.map(|id| id.to_string()), answer: answer.status.to_string() });
            }
            let description = said["description"].as_str().unwrap_or_default();
            let lower = description.to_lowercase();
            let has = |words: &[&str]| words.iter().any(|words| lower.contains(words));
            if is_change && has(&["message is not modified"]) {
                return Ok(Accepted { reference: None, answer: description.to_owned() });
            } else if is_change && has(&["message to edit not found", "can't be edited", "message_id_invalid"]) {
                body.remove("message_id");
                body.insert("disable_notification".into(), self.is_silent.into());
            } else if body.contains_key("parse_mode") && has(&["can't parse entities"]) {
                body.remove("parse_mode");
                body.insert("text".into(), String::from_utf8_lossy(plain).into());
            } else if let Some(id) = said["parameters"]["migrate_to_chat_id"].as_i64().filter(|id| *id != moved) {
                tracing::warn!(
                    chat_id = id,
                    "the Telegram group became a supergroup; write its new id to alerting.telegram.chat_id"
                );
                self.migrated.store(id, Relaxed);
            } else {
                return Err(self.refusal(answer, &said));
            }
        }
        Err(SendError::Permanent { reason: format!("{} refuses one message in several ways", self.endpoint.origin()) })
    }

    async fn call(&self, method: &str, body: &Map<String, Value>) -> Result<Answer, SendError> {
        let url = self.endpoint.below(&[&format!("bot{}", self.token.reveal()), method]);
        let body = serde_json::to_vec(body).unwrap_or_default();
        self.endpoint.call(self.endpoint.json(Method::POST, url, body.into())).await
    }

    fn refusal(&self, mut answer: Answer, said: &Value) -> SendError {
        let after = said["parameters"]["retry_after"].as_u64().map(std::time::Duration::from_secs);
        answer.after = after.or(answer.after);
        let description = said["description"].as_str().unwrap_or_default();
        let advice = match (answer.status.as_u16(), description.to_lowercase()) {
            (401, _) => "the token is wrong or was revoked; write the one that BotFather gives to alerting.telegram.bot_token",
            (404, _) => "check alerting.telegram.bot_token, and alerting.telegram.api_url if it is set",
            (403, _) => "add the bot to the chat again, or write another chat to alerting.telegram.chat_id",
            (400, text) if text.contains("chat not found") || text.contains("peer_id_invalid") => {
                "check alerting.telegram.chat_id, and add the bot to the chat, or write to it first"
            }
            (400, text) if text.contains("not enough rights") || text.contains("write_forbidden") => {
                "give the bot the right to send messages there"
            }
            (400, _) => "the message was refused as such, which is a defect of this program; please report it",
            _ => "check alerting.telegram.api_url",
        };
        let refused = self.endpoint.judge_with(&answer, description, advice).err();
        refused.unwrap_or_else(|| self.endpoint.stranger(&answer))
    }
}

/// A chat as the API takes it: a number, or a name.
fn chat(id: &str) -> Value {
    number(id).map_or_else(|| id.into(), Value::from)
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

impl Telegram {
    /// The text of the template between title and foot, with its markup, and with that shown where it is refused.
    fn templated(&self, message: &Message, sender: &Sender) -> Option<(String, String)> {
        let template = self.template.as_ref()?;
        let frame = frame(message, sender);
        let text = |markup: Markup, escape| {
            let text = template.render(message, sender, Escape::Text(escape))?;
            Some(format!("{} {}\n\n{text}\n\n{}", mark(frame.tone), markup.bold(&frame.title), markup.italic(&frame.foot)))
        };
        let marked = match self.parse_mode {
            ParseMode::Html => text(Markup::Html, |text| Markup::Html.text(text)),
            ParseMode::MarkdownV2 => text(Markup::MarkdownV2, |text| Markup::MarkdownV2.text(text)),
        };
        marked.zip(text(Markup::None, |text| Markup::None.text(text)))
    }
}

impl Notifier for Telegram {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let markup = match self.parse_mode {
            ParseMode::Html => Markup::Html,
            ParseMode::MarkdownV2 => Markup::MarkdownV2,
        };
        let render = |post: &Post| (text(post, markup), text(post, Markup::None));
        let fits = |(_, plain): &(String, String)| utf16(plain) <= TEXT_MAX;
        let templated = self.templated(message, sender).filter(fits);
        let built_in = || fullest((message, sender), (TEXT_MAX, ALERTS_MAX), render, fits);
        let (marked, plain) = templated.unwrap_or_else(built_in);
        let body = self.body(&marked, &message.place).to_string();
        Rendered { parts: vec![body.into(), plain.into()], ..Rendered::of(message, "") }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.deliver(message))
    }
}

fn text(post: &Post, markup: Markup) -> String {
    let mut page = format!("{} {}\n", mark(post.tone), markup.bold(&post.title));
    let is_group = post.sections.len() > 1;
    for section in &post.sections {
        page.push('\n');
        if is_group {
            page.push_str(&format!("{} ", mark(section.tone)));
        }
        page.push_str(&markup.text(&section.text));
        page.push('\n');
        if !section.labels.is_empty() {
            page.push_str(&markup.code(&section.labels));
            page.push('\n');
        }
        for (name, value) in &section.facts {
            page.push_str(&format!("{} {}\n", markup.bold(name), markup.code(value)));
        }
        for list in &section.lists {
            let lines = fold(list, LIST_MAX, str::to_owned);
            page.push_str(&format!("{}\n{}\n", markup.bold(&list.name), markup.pre(&lines)));
        }
    }
    page.push('\n');
    for remark in post.remarks.iter().chain([&post.foot]) {
        page.push_str(&markup.italic(remark));
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page
}

/// What stands for a colour.
fn mark(tone: Tone) -> &'static str {
    match tone {
        Tone::Over => "🟢",
        Tone::Info => "🔵",
        Tone::Warn => "🟠",
        Tone::Critical => "🔴",
        Tone::Emergency => "🚨",
    }
}

/// "Formatting options".
#[derive(Clone, Copy)]
enum Markup {
    Html,
    MarkdownV2,
    None,
}

impl Markup {
    /// Text in which nothing is markup, nor the name of somebody to notify.
    fn text(self, text: &str) -> String {
        self.escaped(&text.replace('@', "@\u{2060}"))
    }

    fn escaped(self, text: &str) -> String {
        match self {
            Self::Html => html(text),
            Self::MarkdownV2 => behind_backslashes(text, r"_*[]()~`>#+-=|{}.!\"),
            Self::None => text.to_owned(),
        }
    }

    fn bold(self, text: &str) -> String {
        self.around(["<b>", "</b>"], ["*", "*"], self.text(text))
    }

    fn italic(self, text: &str) -> String {
        self.around(["<i>", "</i>"], ["_", "_"], self.text(text))
    }

    fn code(self, text: &str) -> String {
        self.around(["<code>", "</code>"], ["`", "`"], self.verbatim(text))
    }

    fn pre(self, text: &str) -> String {
        self.around(["<pre>", "</pre>"], ["```\n", "\n```"], self.verbatim(text))
    }

    /// The text of code, in which no name is looked for.
    fn verbatim(self, text: &str) -> String {
        match self {
            Self::Html => html(text),
            Self::MarkdownV2 => behind_backslashes(text, r"`\"),
            Self::None => text.to_owned(),
        }
    }

    fn around(self, html: [&str; 2], markdown: [&str; 2], text: String) -> String {
        let [before, after] = match self {
            Self::Html => html,
            Self::MarkdownV2 => markdown,
            Self::None => return text,
        };
        if text.is_empty() { text } else { format!("{before}{text}{after}") }
    }
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn behind_backslashes(text: &str, acting: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acting.contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_context_has_its_escapes() {
        let text = r#"a_b <c> & `d` \e"#;
        assert_eq!(Markup::Html.bold(text), r"<b>a_b &lt;c&gt; &amp; `d` \e</b>");
        assert_eq!(Markup::MarkdownV2.italic(text), r"_a\_b <c\> & \`d\` \\e_");
        assert_eq!(Markup::MarkdownV2.code(text), r"`a_b <c> & \`d\` \\e`");
        assert_eq!(Markup::MarkdownV2.pre("x"), "```\nx\n```");
        assert_eq!(Markup::None.bold("a@b"), "a@\u{2060}b");
        assert_eq!(Markup::Html.code("a@b\""), "<code>a@b&quot;</code>");
    }
}
