//! Teams against a workflow's trigger and an old connector that answer as they do ("Create and send messages", "Microsoft Teams
//! Webhook"), and refuse what Teams would refuse of an Adaptive Card (the schema explorer's pages of the elements).

use std::time::Duration;

use serde_json::{Value, json};
use sysops_agent::config::{self, Config, Secret};
use sysops_agent::model::{Severities, Severity};
use sysops_agent::notifiers::{Channel, SendError, Updates};

use super::chats::{Told, everything, hostile_call, list, object, tell, text};
use super::service::{Protocol, Reply, Request, Service};
use super::{channel, golden};

pub fn config(url: &str) -> config::Teams {
    config::Teams { webhook_url: Secret::new(url.into()), severities: Severities::from(Severity::Warn) }
}

fn to(url: &str) -> Channel {
    let mut whole = Config::default();
    whole.alerting.teams = Some(config(url));
    channel("teams", &whole).unwrap().unwrap()
}

/// The cards that a workflow, or a connector, has posted.
#[derive(Default)]
struct Channels {
    workflow: Vec<Value>,
    connector: Vec<Value>,
}

impl Protocol for Channels {
    fn answer(&mut self, request: &Request) -> Reply {
        let valid = request.json().filter(|body| validate(body, request.body.len()).is_ok());
        match request.path.as_str() {
            "/workflows/1/triggers/manual/paths/invoke" if request.asked("sig") != Some("secret") => {
                let message = "The request to trigger workflow '1' cannot be authorized: signature secret";
                Reply::json(401, json!({ "error": { "code": "DirectApiAuthorizationRequired", "message": message } }))
            }
            "/workflows/1/triggers/manual/paths/invoke" => match valid {
                Some(body) => {
                    self.workflow.push(body);
                    Reply::new(202, "")
                }
                None => Reply::json(400, json!({ "error": { "code": "TriggerInputSchemaMismatch", "message": "secret" } })),
            },
            "/webhookb2/secret" => match valid {
                Some(body) => {
                    self.connector.push(body);
                    Reply::new(200, "1")
                }
                None => Reply::new(400, "Bad payload received by generic incoming webhook."),
            },
            _ => Reply::json(
                404,
                json!({ "error": { "code": "WorkflowNotFound", "message": "The workflow 'secret' could not be found." } }),
            ),
        }
    }
}

fn validate(body: &Value, size: usize) -> Result<(), String> {
    let envelope = object(body, &["type", "attachments"])?;
    let [attachment] = list(&envelope["attachments"], 1)? else { return Err("not one attachment".into()) };
    let attachment = object(attachment, &["contentType", "contentUrl", "content"])?;
    if envelope["type"] != "message" || attachment["contentType"] != "application/vnd.microsoft.card.adaptive" {
        return Err("no message with a card".into());
    }
    if size.max(2 * body.to_string().encode_utf16().count()) > 28 * 1024 {
        return Err(format!("{size} bytes, or too many in UTF-16"));
    }
    let card = object(&attachment["content"], &["$schema", "type", "version", "msteams", "fallbackText", "body"])?;
    if card["type"] != "AdaptiveCard" || card["version"] != "1.4" {
        return Err("no card that Teams takes".into());
    }
    text(&card["fallbackText"], 1000)?;
    list(&card["body"], 1000)?.iter().try_for_each(element)
}

fn one_of(value: Option<&Value>, names: &[&str]) -> Result<(), String> {
    match value {
        Some(value) if !names.iter().any(|name| value == name) => Err(format!("{value} is none of {names:?}")),
        _ => Ok(()),
    }
}

fn element(element: &Value) -> Result<(), String> {
    match element["type"].as_str() {
        Some("Container") => {
            let container = object(element, &["type", "style", "bleed", "items"])?;
            one_of(container.get("style"), &["default", "emphasis", "good", "attention", "warning", "accent"])?;
            list(&container["items"], 1000)?.iter().try_for_each(self::element)
        }
        Some("RichTextBlock") => {
            let block = object(element, &["type", "spacing", "inlines"])?;
            one_of(block.get("spacing"), &["Default", "None", "Small", "Medium", "Large", "ExtraLarge", "Padding"])?;
            for run in list(&block["inlines"], 100)? {
                let run = object(run, &["type", "text", "size", "weight", "isSubtle", "fontType"])?;
                one_of(run.get("type"), &["TextRun"])?;
                one_of(run.get("size"), &["Default", "Small", "Medium", "Large", "ExtraLarge"])?;
                one_of(run.get("weight"), &["Default", "Lighter", "Bolder"])?;
                one_of(run.get("fontType"), &["Default", "Monospace"])?;
                // An empty line of a list is one.
                if run["text"] != "" && run["text"] != "  " {
                    text(&run["text"], 4000)?;
                }
            }
            Ok(())
        }
        kind => Err(format!("no such element: {kind:?}")),
    }
}

#[test]
fn whatever_there_is_to_say_is_valid() {
    for (name, message) in everything() {
        let rendered = golden::render("teams", &message).text();
        let body = serde_json::from_slice(&rendered).unwrap();
        validate(&body, rendered.len()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test]
async fn workflows_and_connectors_take_it() {
    let service = Service::start(Channels::default()).await;
    let workflow = to(&format!("http://{}/workflows/1/triggers/manual/paths/invoke?api-version=1&sig=secret", service.address));
    let connector = to(&format!("http://{}/webhookb2/secret", service.address));
    assert_eq!(workflow.updates, Updates::Separate);
    for channel in [workflow, connector] {
        assert_eq!(tell(&channel, &hostile_call()).await.unwrap().reference, None);
    }
    let (card, other) = service.holds(|channels| (channels.workflow[0].clone(), channels.connector[0].clone()));
    assert_eq!(card, other);
    let items = &card["attachments"][0]["content"]["body"][0]["items"];
    let markup = "*b* _i_ ~s~ ||s|| `c` <b>&amp;</b> <@U1> <!channel> @everyone @here [l](https://example.org/) <script> {{7*7}} #a -b .c !d";
    assert!(items[1]["inlines"][0]["text"].as_str().unwrap().ends_with(markup), "{items}");
}

#[tokio::test]
async fn refusals_are_judged() {
    let service = Service::start(Channels::default()).await;
    let address = service.address;
    let good = to(&format!("http://{address}/workflows/1/triggers/manual/paths/invoke?sig=secret"));
    let failed = |status| {
        format!(
            "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error {status} with ContextId tcid=0"
        )
    };
    for (reply, expected) in [
        (
            Reply::json(429, json!({ "error": { "code": "RunTimesThrottled" } })).header("retry-after", "12"),
            Some(Duration::from_secs(12)),
        ),
        (Reply::new(500, ""), None),
        (Reply::new(200, failed(429)), None),
        (Reply::new(200, failed(503)), None),
    ] {
        service.next(reply);
        let error = tell(&good, &Told::new().begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { after, .. } if after == expected), "{error:?}");
    }
    for (path, says) in [
        (
            "workflows/1/triggers/manual/paths/invoke?sig=secre",
            "401 Unauthorized: DirectApiAuthorizationRequired; the URL is cut",
        ),
        ("workflows/secret", "404 Not Found: WorkflowNotFound; the workflow or webhook was removed"),
    ] {
        refused(&to(&format!("http://{address}/{path}")), says).await;
    }
    for (reply, says) in [
        (
            Reply::json(400, json!({ "error": { "code": "WorkflowTriggerIsNotEnabled" } })),
            "the workflow is turned off; turn it on",
        ),
        (Reply::json(400, json!({ "error": { "code": "TriggerInputSchemaMismatch" } })), "see that the workflow begins with"),
        (Reply::new(400, "Bad payload"), "400 Bad Request; the message was refused as such"),
        (Reply::new(413, ""), "413 Payload Too Large; check alerting.teams.webhook_url"),
        (Reply::new(200, failed(403)), "took the message, but Teams answered it with 403; a workflow in place"),
    ] {
        service.next(reply);
        refused(&good, says).await;
    }
}

async fn refused(channel: &Channel, says: &str) {
    let error = tell(channel, &Told::new().begins()).await.unwrap_err();
    assert!(matches!(error, SendError::Permanent { .. }), "{error}");
    assert!(error.to_string().contains(says) && !format!("{error:?}{channel:?}").contains("secre"), "{error}");
}

#[tokio::test]
async fn a_page_is_no_acceptance() {
    let service = Service::start(Channels::default()).await;
    let channel = to(&format!("http://{}/webhookb2/secret", service.address));
    for page in ["\n<!DOCTYPE html>"] {
        service.next(Reply::new(200, page));
        let error = tell(&channel, &Told::new().begins()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { .. }), "{error:?}");
        assert!(
            error.to_string().contains("200 OK, but not as the service does; see who answers there, and check alerting.teams."),
            "{error}"
        );
    }
}
