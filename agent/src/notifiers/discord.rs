//! Discord: a webhook's messages, made of embeds, each alert in the colour of its severity.
//!
//! A message can be changed, but a webhook's can be no answer to another: where somebody has to be called, a further message is posted,
//! and what follows changes that one. Text from outside can neither mention nor format: Markdown is escaped, and `allowed_mentions`
//! names the configured roles alone.

use reqwest::{Method, Url};
use serde::Serialize;
use serde_json::{Map, Value};

use super::http::{Answer, Clients, Endpoint, TIMEOUT};
use super::post::{Post, Section, Tone, fenced, fold, frame, fullest, utf16};
use super::template::{Escape, Template};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config;
use crate::model::{Message, Place};

pub(super) const ROW: Row = Row {
    name: "discord",
    summary: "a Discord channel",
    build: |config, clients| {
        let Some(discord) = &config.alerting.discord else { return Ok(None) };
        let notifier = Discord::new(discord, clients, Template::of(config, ROW.name))
            .map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: discord.severities,
            retry: RETRY,
            updates: Updates::InPlace,
            refresh: None,
            is_screen: false,
        }))
    },
};

const KEY: &str = "alerting.discord.webhook_url";

/// Discord's documentation, "Message Resource", section "Embed Limits": characters of all texts of all embeds, of a description and of a
/// field's value, fields of an embed; embeds of a message from "Webhook Resource", section "Execute Webhook".
const EMBEDS_TEXT_MAX: usize = 6000;
const DESCRIPTION_MAX: usize = 4096;
const FIELDS_MAX: usize = 25;
const VALUE_MAX: usize = 1024;
const EMBEDS_MAX: usize = 10;
/// A value up to this length stands beside others in one line, in characters.
const INLINE_MAX: usize = 40;

/// JSON error codes, from "Opcodes and Status Codes", section "JSON".
const UNKNOWN_MESSAGE: i64 = 10_008;
const ANOTHERS_MESSAGE: i64 = 50_005;

struct Discord {
    endpoint: Endpoint,
    config: config::Discord,
    template: Option<Template>,
}

impl Discord {
    fn new(discord: &config::Discord, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let endpoint = Endpoint::new(clients, KEY, &discord.webhook_url, TIMEOUT)?;
        Ok(Self { endpoint, config: discord.clone(), template })
    }

    fn embeds(&self, post: &Post, is_group: bool) -> Vec<Embed> {
        let remarks: String = post.remarks.iter().map(|remark| format!("\n{}", markdown(remark))).collect();
        let footer = Footer { text: post.foot.clone() };
        let head = Embed {
            title: Some(markdown(&post.title)),
            footer: Some(footer),
            ..self.embed(post.tone, String::new(), Vec::new())
        };
        if let ([section], false) = (post.sections.as_slice(), is_group) {
            let description = format!("{}{remarks}", markdown(&section.text));
            return vec![Embed { description, fields: fields(section), ..head }];
        }
        let mut embeds = vec![Embed { description: remarks.trim_start().to_owned(), ..head }];
        for section in &post.sections {
            let labels = if section.labels.is_empty() { String::new() } else { format!("\n{}", markdown(&section.labels)) };
            embeds.push(self.embed(section.tone, format!("{}{labels}", markdown(&section.text)), fields(section)));
        }
        embeds
    }

    fn embed(&self, tone: Tone, description: String, fields: Vec<Field>) -> Embed {
        let color = match tone {
            Tone::Over | Tone::Info => tone.rgb(),
            Tone::Warn => self.config.embed_color_warn,
            Tone::Critical => self.config.embed_color_critical,
            Tone::Emergency => self.config.embed_color_emergency,
        };
        Embed { title: None, description, color, fields, footer: None }
    }

    /// The address that executes the webhook; what the configured one asks for, such as a thread, stays.
    fn execute(&self) -> Url {
        let mut url = self.endpoint.below(&[]);
        self.ask(&mut url, &[("wait", "true")]);
        url
    }

    /// The address of one of the webhook's messages.
    fn message(&self, id: &str) -> Url {
        let mut url = self.endpoint.below(&["messages", id]);
        self.ask(&mut url, &[]);
        url
    }

    fn ask(&self, url: &mut Url, more: &[(&str, &str)]) {
        let asked: Vec<(String, String)> =
            self.endpoint.url().query_pairs().into_owned().filter(|(name, _)| name != "wait").collect();
        url.set_query(None);
        if !asked.is_empty() || !more.is_empty() {
            url.query_pairs_mut().extend_pairs(asked).extend_pairs(more);
        }
    }

    async fn deliver(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let body = message.text();
        let Place::Replace(id) = &message.place else { return self.post(body).await };
        if is_id(id) {
            let answer = self.endpoint.call(self.endpoint.json(Method::PATCH, self.message(id), body.clone())).await?;
            if !matches!(answer.json()["code"].as_i64(), Some(UNKNOWN_MESSAGE | ANOTHERS_MESSAGE)) {
                return Ok(Accepted { reference: None, answer: self.judge(answer)?.shown() });
            }
        }
        // Who changes a message cannot rename its sender; who posts one can.
        let mut body: Map<String, Value> = serde_json::from_slice(&body).unwrap_or_default();
        body.insert("username".into(), self.config.username.as_str().into());
        self.post(serde_json::to_vec(&body).unwrap_or_default().into()).await
    }

    async fn post(&self, body: bytes::Bytes) -> Result<Accepted, SendError> {
        let answer = self.endpoint.call(self.endpoint.json(Method::POST, self.execute(), body)).await?;
        let answer = self.judge(answer)?;
        let reference = answer.json()["id"].as_str().filter(|id| is_id(id)).map(str::to_owned);
        Ok(Accepted { reference, answer: answer.shown() })
    }

    fn judge(&self, mut answer: Answer) -> Result<Answer, SendError> {
        let said = answer.json();
        // More exact than the header, which counts whole seconds.
        let after = said["retry_after"].as_f64().and_then(|secs| std::time::Duration::try_from_secs_f64(secs).ok());
        answer.after = after.or(answer.after);
        let advice = match (answer.status.as_u16(), said["code"].as_i64()) {
            (404, Some(10_015)) | (401, _) => {
                format!("the webhook was removed or its token is wrong; make a new one and write its URL to {KEY}")
            }
            (404, Some(10_003)) => format!("the channel or thread is gone; write another webhook's URL, or thread, to {KEY}"),
            (400, Some(220_001)) => format!("the webhook belongs to a forum; add ?thread_id= and the id of a thread to {KEY}"),
            (400, _) => "the message was refused as such, which is a defect of this program; please report it".to_owned(),
            _ => format!("check {KEY}"),
        };
        self.endpoint.judge_with(&answer, said["message"].as_str().unwrap_or_default(), &advice)?;
        Ok(answer)
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Notifier for Discord {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let render = |post: &Post| {
            let roles: &[String] = if message.calls() { &self.config.mention_roles } else { &[] };
            let mentions: String = roles.iter().map(|role| format!("<@&{role}> ")).collect();
            Body {
                username: (!matches!(message.place, Place::Replace(_))).then_some(&self.config.username),
                content: if roles.is_empty() { mentions } else { mentions + &markdown(&post.summary()) },
                embeds: self.embeds(post, message.is_group()),
                allowed_mentions: AllowedMentions { parse: [], roles },
            }
        };
        let template = self.template.as_ref();
        let templated = template.and_then(|template| template.render(message, sender, Escape::Text(markdown))).map(|text| {
            let mut body = render(&frame(message, sender));
            // The one that has the title.
            body.embeds.iter_mut().take(1).for_each(|embed| embed.description.clone_from(&text));
            body
        });
        let built_in = || fullest((message, sender), (EMBEDS_TEXT_MAX, EMBEDS_MAX - 1), render, Body::fits);
        let body = templated.filter(Body::fits).unwrap_or_else(built_in);
        Rendered::of(message, serde_json::to_vec(&body).unwrap_or_default())
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.deliver(message))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a String>,
    /// Always there, so that a change takes away what called somebody.
    content: String,
    embeds: Vec<Embed>,
    allowed_mentions: AllowedMentions<'a>,
}

#[derive(Serialize)]
struct AllowedMentions<'a> {
    parse: [&'a str; 0],
    roles: &'a [String],
}

#[derive(Serialize)]
struct Embed {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    color: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<Field>,
    #[serde(skip_serializing_if = "Option::is_none")]
    footer: Option<Footer>,
}

#[derive(Serialize)]
struct Field {
    name: String,
    value: String,
    inline: bool,
}

#[derive(Serialize)]
struct Footer {
    text: String,
}

impl Body<'_> {
    fn fits(&self) -> bool {
        let text = |embed: &Embed| {
            let fields: usize = embed.fields.iter().map(|field| utf16(&field.name) + utf16(&field.value)).sum();
            let title = embed.title.as_ref().map_or(0, |title| utf16(title));
            let footer = embed.footer.as_ref().map_or(0, |footer| utf16(&footer.text));
            title + utf16(&embed.description) + fields + footer
        };
        self.embeds.iter().map(text).sum::<usize>() <= EMBEDS_TEXT_MAX
            && self.embeds.iter().all(|embed| embed.fields.len() <= FIELDS_MAX && utf16(&embed.description) <= DESCRIPTION_MAX)
    }
}

fn fields(section: &Section) -> Vec<Field> {
    let facts = section.facts.iter().map(|(name, value)| Field {
        name: markdown(name),
        value: markdown(value),
        inline: value.chars().count() <= INLINE_MAX,
    });
    let lists = section.lists.iter().map(|list| {
        let lines = fold(list, VALUE_MAX - "```\n\n```".len(), fenced);
        Field { name: markdown(&list.name), value: format!("```\n{lines}\n```"), inline: false }
    });
    facts.chain(lists).collect()
}

/// Text in which nothing is Discord's Markdown, a mention, an emoji or a link: a backslash takes its meaning from any punctuation.
fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    let mut is_start = true;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let acts = match c {
            '-' | '+' => is_start,
            ':' => chars.peek().is_some_and(|next| !next.is_whitespace()),
            _ => r"\*_~|`<>[]@#".contains(c),
        };
        if acts {
            escaped.push('\\');
        }
        escaped.push(c);
        is_start = c == '\n' || (is_start && c == ' ');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_is_taken_literally() {
        assert_eq!(markdown("a_b *c* `d` ||e|| <@&1> @here"), r"a\_b \*c\* \`d\` \|\|e\|\| \<\@&1\> \@here");
        assert_eq!(markdown("- a-b\n  # c\n-# d"), "\\- a-b\n  \\# c\n\\-\\# d");
        assert_eq!(markdown("[a](https://x)"), r"\[a\](https\://x)");
    }
}
