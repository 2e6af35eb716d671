//! Microsoft Teams: an Adaptive Card to a workflow that begins "When a Teams webhook request is received".
//!
//! All text from outside is in TextRuns, of which the schema says "Markdown is not supported", so that nothing needs an escape there and
//! none can be missing. The older Office 365 connectors take the same cards; they answer 200 also where Teams refused one.

use serde::Serialize;

use super::http::{Answer, Clients, Endpoint, TIMEOUT};
use super::post::{List, Post, READABLE, Section, Tone, frame, fullest, utf16};
use super::template::{Escape, Template};
use super::{Accepted, BuildError, Channel, Notifier, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config;
use crate::model::Message;

pub(super) const ROW: Row = Row {
    name: "teams",
    summary: "a Microsoft Teams workflow",
    build: |config, clients| {
        let Some(teams) = &config.alerting.teams else { return Ok(None) };
        let notifier = Teams::new(teams, clients, Template::of(config, ROW.name))
            .map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: teams.severities,
            retry: RETRY,
            updates: Updates::Separate,
            refresh: None,
            is_screen: false,
        }))
    },
};

const KEY: &str = "alerting.teams.webhook_url";

/// The connector "Microsoft Teams", section "Known issues and limitations with actions": a message is at most about 28 KB. Teams keeps
/// text as UTF-16, so that is what is counted.
const MESSAGE_MAX: usize = 28 * 1024;
/// Alerts of a group that are shown.
const ALERTS_MAX: usize = 30;

struct Teams {
    endpoint: Endpoint,
    template: Option<Template>,
}

impl Teams {
    fn new(teams: &config::Teams, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        Ok(Self { endpoint: Endpoint::new(clients, KEY, &teams.webhook_url, TIMEOUT)?, template })
    }

    async fn deliver(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let answer = self.endpoint.call(self.endpoint.post_json(message.text())).await?;
        self.judge(&answer)?;
        Ok(Accepted { reference: None, answer: answer.shown() })
    }

    fn judge(&self, answer: &Answer) -> Result<(), SendError> {
        let said = answer.json();
        // The sentence beside the code names the workflow, which is part of the secret address.
        let code = said["error"]["code"].as_str().unwrap_or_default();
        let advice = match (answer.status.as_u16(), code) {
            (_, "WorkflowTriggerIsNotEnabled" | "WorkflowNotEnabled") => "the workflow is turned off; turn it on".to_owned(),
            (401 | 403, _) => {
                format!("the URL is cut or was renewed; write all of what the workflow shows, sig= included, to {KEY}")
            }
            (404 | 410, _) => format!("the workflow or webhook was removed; make a new one and write its URL to {KEY}"),
            (400, "") => "the message was refused as such, which is a defect of this program; please report it".to_owned(),
            (400, _) => {
                "see that the workflow begins with \"When a Teams webhook request is received\" and posts each card".to_owned()
            }
            _ => format!("check {KEY}"),
        };
        self.endpoint.judge_with(answer, code, &advice)?;
        let Some(status) = connectors_error(&answer.body) else { return Ok(()) };
        let reason = format!("{} took the message, but Teams answered it with {status}", self.endpoint.origin());
        Err(match status {
            429 | 500..=599 => SendError::Retry { reason, after: answer.after },
            _ => SendError::Permanent { reason: format!("{reason}; a workflow in place of the connector says more") },
        })
    }
}

/// What a connector says within an answer of 200: `Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP
/// error 429 with ContextId …`. It says `1` where all went well; a workflow says nothing, or what its owner lets it say.
fn connectors_error(body: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(body);
    let (_, after) = text.split_once("returned HTTP error ")?;
    after.get(..3)?.parse().ok()
}

impl Notifier for Teams {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let render = |post: &Post| serde_json::to_string(&envelope(post)).unwrap_or_default();
        let fits = |body: &String| 2 * utf16(body) <= MESSAGE_MAX;
        let template = self.template.as_ref();
        // What is run of text has no markup.
        let templated = template.and_then(|template| template.render(message, sender, Escape::Text(str::to_owned))).map(|text| {
            let mut envelope = envelope(&frame(message, sender));
            let lines = text.lines().map(|text| line("None", vec![run(text)]));
            envelope.attachments.iter_mut().for_each(|card| drop(card.content.body.splice(1..1, lines.clone())));
            serde_json::to_string(&envelope).unwrap_or_default()
        });
        let built_in = || fullest((message, sender), (READABLE, ALERTS_MAX), render, fits);
        let body = templated.filter(fits).unwrap_or_else(built_in);
        Rendered::of(message, body)
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.deliver(message))
    }
}

#[derive(Serialize)]
struct Envelope {
    r#type: &'static str,
    attachments: [Attachment; 1],
}

#[derive(Serialize)]
struct Attachment {
    #[serde(rename = "contentType")]
    content_type: &'static str,
    #[serde(rename = "contentUrl")]
    content_url: Option<&'static str>,
    content: Card,
}

#[derive(Serialize)]
struct Card {
    #[serde(rename = "$schema")]
    schema: &'static str,
    r#type: &'static str,
    version: &'static str,
    msteams: Width,
    #[serde(rename = "fallbackText")]
    fallback: String,
    body: Vec<Element>,
}

#[derive(Serialize)]
struct Width {
    width: &'static str,
}

/// An element of a card, in Adaptive Cards' own names.
#[derive(Serialize)]
#[serde(tag = "type")]
enum Element {
    Container { style: &'static str, bleed: bool, items: Vec<Self> },
    RichTextBlock { spacing: &'static str, inlines: Vec<Run> },
}

#[derive(Serialize)]
struct Run {
    r#type: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<&'static str>,
    #[serde(rename = "isSubtle", skip_serializing_if = "Option::is_none")]
    is_subtle: Option<bool>,
    #[serde(rename = "fontType", skip_serializing_if = "Option::is_none")]
    font: Option<&'static str>,
}

fn run(text: &str) -> Run {
    Run { r#type: "TextRun", text: text.to_owned(), size: None, weight: None, is_subtle: None, font: None }
}

fn line(spacing: &'static str, inlines: Vec<Run>) -> Element {
    Element::RichTextBlock { spacing, inlines }
}

fn envelope(post: &Post) -> Envelope {
    let title = Run { size: Some("Large"), weight: Some("Bolder"), ..run(&post.title) };
    let mut items = vec![line("None", vec![title])];
    let mut body = Vec::new();
    if let [section] = post.sections.as_slice() {
        items.push(line("Small", vec![run(&section.text)]));
        body.extend(details(section));
    } else {
        body.extend(post.sections.iter().map(|section| Element::Container {
            style: style(section.tone),
            bleed: false,
            items: std::iter::once(line("None", vec![run(&section.text)])).chain(details(section)).collect(),
        }));
    }
    body.insert(0, Element::Container { style: style(post.tone), bleed: true, items });
    let subtle = |text: &String| line("Small", vec![Run { is_subtle: Some(true), ..run(text) }]);
    body.extend(post.remarks.iter().chain([&post.foot]).map(subtle));
    Envelope {
        r#type: "message",
        attachments: [Attachment {
            content_type: "application/vnd.microsoft.card.adaptive",
            content_url: None,
            content: Card {
                schema: "http://adaptivecards.io/schemas/adaptive-card.json",
                r#type: "AdaptiveCard",
                version: "1.4",
                msteams: Width { width: "Full" },
                fallback: post.summary(),
                body,
            },
        }],
    }
}

fn details(section: &Section) -> Vec<Element> {
    let mut elements = Vec::new();
    if !section.labels.is_empty() {
        elements.push(line("None", vec![Run { is_subtle: Some(true), ..run(&section.labels) }]));
    }
    for (name, value) in &section.facts {
        elements.push(line("None", vec![Run { weight: Some("Bolder"), ..run(&format!("{name}: ")) }, run(value)]));
    }
    for List { name, lines, more } in &section.lists {
        elements.push(line("Small", vec![Run { weight: Some("Bolder"), ..run(name) }]));
        let mono = |text: &str| line("None", vec![Run { font: Some("Monospace"), ..run(text) }]);
        elements.extend(lines.iter().map(|line| mono(line)));
        if *more > 0 {
            elements.push(mono(&format!("… {more} more")));
        }
    }
    elements
}

/// The style of a container is its colour ("Container", property `style`).
fn style(tone: Tone) -> &'static str {
    match tone {
        Tone::Over => "good",
        Tone::Info => "accent",
        Tone::Warn => "warning",
        Tone::Critical | Tone::Emergency => "attention",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connectors_error_is_found_in_its_sentence() {
        let failed =
            b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 413 with ContextId x";
        assert_eq!(connectors_error(failed), Some(413));
        for other in [&b"1"[..], b"", b"{}", b"returned HTTP error ", b"returned HTTP error abc"] {
            assert_eq!(connectors_error(other), None);
        }
    }
}
