//! Slack, in two ways: an incoming webhook, which can only post; or an app's bot, whose messages are changed in place and answered in
//! their thread, also in the channel where somebody has to be called.
//!
//! A message is a header and an attachment in the colour of each alert. Text from outside is escaped, and `verbatim`, so that it mentions
//! nobody and links nowhere.

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};

use super::http::{Answer, Clients, Endpoint, TIMEOUT, sensitive};
use super::post::{Post, READABLE, Section, fenced, fold, frame, fullest, utf16};
use super::template::{Escape, Template};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config::{self, SlackAccess};
use crate::model::{Message, Place};

pub(super) const ROW: Row = Row {
    name: "slack",
    summary: "a Slack channel",
    build: |config, clients| {
        let Some(slack) = &config.alerting.slack else { return Ok(None) };
        let notifier = Slack::new(slack, clients, Template::of(config, ROW.name))
            .map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            updates: if notifier.bot.is_some() { Updates::InPlace } else { Updates::Separate },
            notifier: Box::new(notifier),
            severities: slack.severities,
            retry: RETRY,
            refresh: None,
            is_screen: false,
        }))
    },
};

/// Slack's documentation, "Blocks" (of a message 50) and the pages of its blocks: characters of a header, of a section's text, of each
/// of its ten fields.
const BLOCKS_MAX: usize = 50;
const HEADER_MAX: usize = 150;
const SECTION_MAX: usize = 3000;
const FIELD_MAX: usize = 2000;
const FIELDS_MAX: usize = 10;
/// Characters of all blocks: beyond some number, which no page names, they are refused as `msg_blocks_too_long`.
const BLOCKS_TEXT_MAX: usize = 12_000;
/// "Legacy attachments": more than 20 are hard to read.
const ATTACHMENTS_MAX: usize = 20;

struct Slack {
    endpoint: Endpoint,
    /// Its credential, where messages go through the Web API.
    bot: Option<HeaderValue>,
    channel: Option<String>,
    mention_users: Vec<String>,
    template: Option<Template>,
}

impl Slack {
    fn new(slack: &config::Slack, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let (endpoint, bot) = match &slack.access {
            SlackAccess::Webhook(url) => (Endpoint::new(clients, "alerting.slack.webhook_url", url, TIMEOUT)?, None),
            SlackAccess::Bot { token, api_url } => {
                let bot = sensitive(&format!("Bearer {}", token.reveal()));
                let bot = bot.ok_or("alerting.slack.bot_token has characters that HTTP does not allow")?;
                (Endpoint::new(clients, "alerting.slack.api_url", api_url, TIMEOUT)?, Some(bot))
            }
        };
        Ok(Self { endpoint, bot, channel: slack.channel.clone(), mention_users: slack.mention_users.clone(), template })
    }

    fn body(&self, post: &Post, message: &Message) -> Value {
        let mut blocks = vec![json!({ "type": "header", "text": plain(&post.title) })];
        if message.calls() && !self.mention_users.is_empty() {
            let mentions: Vec<String> = self.mention_users.iter().map(|id| mention(id)).collect();
            blocks.push(json!({ "type": "section", "text": marked(&mentions.join(" ")) }));
        }
        let mut attachments: Vec<(u32, Vec<Value>)> =
            post.sections.iter().map(|section| (section.tone.rgb(), section_blocks(section))).collect();
        if post.sections.len() != 1 {
            attachments.push((post.tone.rgb(), Vec::new()));
        }
        if let Some((_, last)) = attachments.last_mut() {
            if !post.remarks.is_empty() {
                last.push(json!({ "type": "section", "text": plain(&post.remarks.join("\n")) }));
            }
            last.push(json!({ "type": "context", "elements": [plain(&post.foot)] }));
        }
        let attachments: Vec<Value> =
            attachments.iter().map(|(rgb, blocks)| json!({ "color": format!("#{rgb:06x}"), "blocks": blocks })).collect();
        let mut body = json!({ "text": escaped(&post.summary()), "blocks": blocks, "attachments": attachments });
        if let Some(channel) = &self.channel {
            body["channel"] = channel.as_str().into();
        }
        let place = match &message.place {
            Place::Replace(name) | Place::Answer(name) if self.bot.is_some() => name.split_once(' '),
            _ => None,
        };
        if let Some((channel, ts)) = place {
            body["channel"] = channel.into();
            if matches!(message.place, Place::Replace(_)) {
                body["ts"] = ts.into();
            } else {
                body["thread_ts"] = ts.into();
                body["reply_broadcast"] = message.calls().into();
            }
        }
        body
    }

    async fn deliver(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let Some(bot) = &self.bot else {
            let answer = self.endpoint.call(self.endpoint.post_json(message.text())).await?;
            return self.judge(&answer).map(|()| Accepted { reference: None, answer: answer.shown() });
        };
        let mut body: Map<String, Value> = serde_json::from_slice(&message.text()).unwrap_or_default();
        loop {
            let is_change = body.contains_key("ts");
            let url = self.endpoint.below(&[if is_change { "chat.update" } else { "chat.postMessage" }]);
            let answer = self.call(bot, url, &body).await?;
            let said = answer.json();
            let error = said["error"].as_str().unwrap_or_default();
            if GONE.contains(&error) && (is_change || body.contains_key("thread_ts")) {
                for key in ["ts", "thread_ts", "reply_broadcast"] {
                    body.remove(key);
                }
                body.insert("channel".into(), self.channel.as_deref().into());
                continue;
            }
            if answer.status.is_success() && said["ok"] != true {
                return Err(self.refusal(&answer, error));
            }
            self.judge(&answer)?;
            let reference = match (said["channel"].as_str(), said["ts"].as_str()) {
                (Some(channel), Some(ts)) if !is_change => Some(format!("{channel} {ts}")),
                _ => None,
            };
            let answer = reference.clone().unwrap_or_else(|| "ok".into());
            return Ok(Accepted { reference, answer });
        }
    }

    async fn call(&self, bot: &HeaderValue, url: Url, body: &Map<String, Value>) -> Result<Answer, SendError> {
        let body = serde_json::to_vec(body).unwrap_or_default();
        let request = self.endpoint.json(Method::POST, url, body.into()).header(AUTHORIZATION, bot.clone());
        self.endpoint.call(request).await
    }

    /// The verdict by status and the word in the body: plain text of a webhook, JSON of the Web API.
    fn judge(&self, answer: &Answer) -> Result<(), SendError> {
        let json = answer.json();
        let text = String::from_utf8_lossy(&answer.body);
        let word = json["error"].as_str().unwrap_or(text.trim());
        let word = if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') { word } else { "" };
        self.endpoint.judge_with(answer, word, &self.advice(word))
    }

    /// What the Web API refuses with status 200.
    fn refusal(&self, answer: &Answer, error: &str) -> SendError {
        let origin = self.endpoint.origin();
        if error.is_empty() {
            return self.endpoint.stranger(answer);
        }
        let error = super::escape(error);
        if PASSING.contains(&&*error) {
            return SendError::Retry { reason: format!("{origin} refused the message: {error}"), after: answer.after };
        }
        SendError::Permanent { reason: format!("{origin} refused the message: {error}; {}", self.advice(&error)) }
    }

    fn advice(&self, error: &str) -> String {
        let (credential, key) = match self.bot {
            None => ("the webhook was removed or its app disabled; make a new one and write its URL to", "webhook_url"),
            Some(_) => ("the token is wrong or was revoked; write the app's bot token to", "bot_token"),
        };
        match error {
            "no_service"
            | "no_service_id"
            | "no_team"
            | "no_active_hooks"
            | "team_disabled"
            | "invalid_token"
            | "invalid_auth"
            | "not_authed"
            | "account_inactive"
            | "token_revoked"
            | "token_expired"
            | "not_allowed_token_type" => {
                format!("{credential} alerting.slack.{key}")
            }
            "missing_scope" | "no_permission" => "give the app the scope chat:write and install it again".to_owned(),
            "not_in_channel" => "invite the app into the channel: /invite @its-name".to_owned(),
            "channel_not_found" | "user_not_found" if self.bot.is_some() => {
                "check alerting.slack.channel, and invite the app into it: /invite @its-name".to_owned()
            }
            "channel_not_found"
            | "user_not_found"
            | "channel_is_archived"
            | "is_archived"
            | "action_prohibited"
            | "posting_to_general_channel_denied"
            | "restricted_action" => {
                "the channel is gone, archived or closed to apps; open it, or choose another one in [alerting.slack]".to_owned()
            }
            "" => format!("check alerting.slack.{}", if self.bot.is_some() { "api_url" } else { "webhook_url" }),
            _ => "the message was refused as such, which is a defect of this program; please report it".to_owned(),
        }
    }
}

/// Errors that say that what was to be changed or answered is not there, or not any more ("chat.update", "chat.postMessage").
const GONE: [&str; 5] =
    ["message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found", "cannot_reply_to_message"];
/// Errors that pass.
const PASSING: [&str; 7] = [
    "ratelimited",
    "rate_limited",
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "team_added_to_org",
];

impl Notifier for Slack {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let template = self.template.as_ref();
        let templated = template.and_then(|template| template.render(message, sender, Escape::Text(foreign))).map(|text| {
            let mut body = self.body(&frame(message, sender), message);
            if let Some(blocks) = body["attachments"][0]["blocks"].as_array_mut() {
                blocks.insert(0, json!({ "type": "section", "text": marked(&text) }));
            }
            body
        });
        let built_in = || fullest((message, sender), (READABLE, ATTACHMENTS_MAX - 1), |post| self.body(post, message), fits);
        let body = templated.filter(fits).unwrap_or_else(built_in);
        Rendered::of(message, body.to_string())
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.deliver(message))
    }
}

fn section_blocks(section: &Section) -> Vec<Value> {
    let labels = if section.labels.is_empty() { String::new() } else { format!("\n{}", section.labels) };
    let mut blocks = vec![json!({ "type": "section", "text": plain(&format!("{}{labels}", section.text)) })];
    for facts in section.facts.chunks(FIELDS_MAX) {
        let fields: Vec<Value> =
            facts.iter().map(|(name, value)| marked(&format!("*{}*\n{}", foreign(name), foreign(value)))).collect();
        blocks.push(json!({ "type": "section", "fields": fields }));
    }
    for list in &section.lists {
        let name = foreign(&list.name);
        let room = SECTION_MAX - utf16(&name).min(SECTION_MAX / 2) - "**\n```\n```".len();
        let lines = fold(list, room, foreign);
        blocks.push(json!({ "type": "section", "text": marked(&format!("*{name}*\n```{lines}\n```")) }));
    }
    blocks
}

fn fits(body: &Value) -> bool {
    let texts = |block: &Value| -> Vec<usize> {
        let fields = block["fields"].as_array().into_iter().flatten().chain(block["elements"].as_array().into_iter().flatten());
        fields.chain(Some(&block["text"])).filter_map(|text| text["text"].as_str()).map(utf16).collect()
    };
    let top = body["blocks"].as_array().into_iter().flatten();
    let attached = body["attachments"].as_array().into_iter().flatten().filter_map(|attachment| attachment["blocks"].as_array());
    let mut count = 0;
    let mut total = 0;
    for block in top.chain(attached.flatten()) {
        let most = match (block["type"].as_str(), &block["fields"]) {
            (Some("header"), _) => HEADER_MAX,
            (_, Value::Array(_)) => FIELD_MAX,
            _ => SECTION_MAX,
        };
        let texts = texts(block);
        if texts.iter().any(|size| *size > most) {
            return false;
        }
        total += texts.iter().sum::<usize>();
        count += 1;
    }
    count <= BLOCKS_MAX && total <= BLOCKS_TEXT_MAX
}

fn mention(id: &str) -> String {
    // Groups of users begin with S, users with U or W.
    if id.starts_with('S') { format!("<!subteam^{id}>") } else { format!("<@{id}>") }
}

/// Text that nothing is read into.
fn plain(text: &str) -> Value {
    json!({ "type": "plain_text", "text": escaped(text), "emoji": false })
}

/// Text with markup.
fn marked(text: &str) -> Value {
    json!({ "type": "mrkdwn", "text": text, "verbatim": true })
}

/// Text from outside between markup: it may look odd where it holds an asterisk, but mentions nobody and opens no fence.
fn foreign(text: &str) -> String {
    escaped(&fenced(text))
}

/// "Formatting text for app surfaces", section "Escaping text": these three begin all that mentions or links.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mentions_is_escaped() {
        assert_eq!(escaped("<!channel> <@U1> &lt;"), "&lt;!channel&gt; &lt;@U1&gt; &amp;lt;");
        assert_eq!([mention("U012AB"), mention("S012AB")], ["<@U012AB>", "<!subteam^S012AB>"]);
    }
}
