//! Templates of the configuration in what the webhook and syslog send.

use std::path::Path;

use serde_json::{Value, json};
use sysops_agent::config::{Config, known_keys, parse};
use sysops_agent::model::{Alert, Message, Severity};
use sysops_agent::notifiers::{NOTIFIERS, Rendered};

use super::golden::{everything_enabled, grouped, hostile, huge};
use super::receiver::Receiver;
use super::{alert, channel, oom, sender};

fn config(templates: &str, url: &str) -> Config {
    let text = format!(
        "[alerting.templates]\n{templates}\n[alerting.webhook]\nenabled = true\nurl = \"{url}\"\n[alerting.syslog]\nenabled = true\n"
    );
    parse(&text, Path::new("t.toml"), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn render(name: &str, templates: &str, message: &Message) -> Rendered {
    channel(name, &config(templates, "http://127.0.0.1/")).unwrap().unwrap().notifier.render(message, &sender())
}

fn of(alert: Alert) -> Message {
    Message::of(alert.into())
}

fn lines(rendered: &Rendered) -> Vec<String> {
    rendered.parts.iter().map(|part| String::from_utf8(part.to_vec()).unwrap()).collect()
}

const BODY: &str = r#"webhook = '{"text": {{ message }}, "host": {{ hostname }}, "labels": {{ labels }}, "level": {{ value }}}'"#;

#[test]
fn every_channel_but_the_terminal_can_have_a_template() {
    let keys: Vec<String> = known_keys().into_iter().map(|key| key.path).collect();
    for row in NOTIFIERS {
        let has = keys.contains(&format!("alerting.templates.{}", row.name));
        assert_eq!(has, row.name != "terminal", "{}", row.name);
    }
}

#[test]
fn the_webhooks_template_is_its_whole_body() {
    let rendered = render("webhook", BODY, &of(alert(Severity::Warn)));
    assert_eq!(
        lines(&rendered),
        [r#"{"text": "CPU usage 95.2% exceeds threshold 90%", "host": "web-01", "labels": {"core":"all"}, "level": 95.2}"#]
    );
    let body: Value = serde_json::from_slice(&render("webhook", BODY, &of(hostile())).text()).unwrap();
    assert_eq!(body["text"], hostile().message);
    assert_eq!(body["labels"]["comm"], "a b\"c\nd=\x1b[31m");
}

#[test]
fn what_is_too_long_is_sent_as_without_a_template() {
    let rendered = render("webhook", BODY, &of(huge()));
    assert_eq!(rendered, render("webhook", "", &of(huge())));
    let syslog = render("syslog", "syslog = '{{ message }} {{ labels }} {{ evidence }}'", &of(huge()));
    assert_eq!(syslog, render("syslog", "", &of(huge())));
}

#[tokio::test]
async fn each_alert_of_a_group_is_a_request_unless_the_template_names_them_all() {
    let mut receiver = Receiver::start([], None).await;
    let url = format!("http://{}/", receiver.address);
    let each = channel("webhook", &config(BODY, &url)).unwrap().unwrap();
    let message = each.notifier.render(&grouped(), &sender());
    each.notifier.send(&message).await.unwrap();
    let mut keys = Vec::new();
    for _ in 0..3 {
        let request = receiver.next().await;
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert!(body["text"].is_string(), "{body}");
        keys.push(request.headers.get("idempotency-key").unwrap().to_str().unwrap().to_owned());
    }
    assert_eq!(keys, ["d-1+2", "d-1+2.2", "d-1+2.3"]);

    let all = r#"webhook = '{"all": [{% for alert in alerts %}{{ alert.metric }}{% if not loop.last %}, {% endif %}{% endfor %}], "remarks": {{ remarks }}}'"#;
    let body: Value = serde_json::from_slice(&render("webhook", all, &grouped()).text()).unwrap();
    assert_eq!(body["all"], json!(["cpu_usage_percent", "kernel_oom_kill", "cpu_usage_percent"]));
    assert_eq!(body["remarks"].as_array().map(Vec::len), Some(3));
}

#[test]
fn syslogs_template_is_the_text_behind_the_tag() {
    let template = "default = 'no'\nsyslog = '{{ hostname }}: {{ message }} {{ evidence.stack }}'";
    assert_eq!(
        lines(&render("syslog", template, &of(oom()))),
        [
            "<26>Feb 22 16:30:00 sysops-agent[4242]: web-01: OOM killer chose java (pid 4242) in /system.slice/app.service oom_kill_process+0x1c4/0x230",
            "<26>Feb 22 16:30:00 sysops-agent[4242]: out_of_memory+0x1a5/0x5a0",
        ]
    );
    let group = lines(&render("syslog", "default = '{{ severity }} {{ status }}'", &grouped()));
    let texts: Vec<_> = group.iter().map(|line| line.split_once("]: ").unwrap()).collect();
    assert_eq!(
        texts[..3],
        [
            ("<28>Feb 22 16:30:00 sysops-agent[4242", "warn firing"),
            ("<26>Feb 22 16:30:00 sysops-agent[4242", "critical firing"),
            ("<29>Feb 22 16:30:00 sysops-agent[4242", "warn resolved"),
        ]
    );
    assert!(texts[3].1.starts_with("and 42 more: "), "{texts:?}");
    let hostile = lines(&render("syslog", "default = '{{ message }} {{ labels.comm }} {{ evidence }}'", &of(hostile())));
    assert!(!hostile.iter().any(|line| line.chars().any(char::is_control)), "{hostile:?}");
}

#[test]
fn services_have_a_template_in_place_of_their_main_text() {
    let mut config = everything_enabled();
    config.alerting.templates.default = Some("{{ hostname }}:\n{{ message }} {{ labels.comm }}".into());
    let cases = [
        ("alertmanager", "/0/annotations/description", "\n"),
        ("pagerduty", "/payload/summary", " "),
        ("opsgenie", "/body/description", "\n"),
        ("ntfy", "/message", "\n"),
    ];
    for (name, place, line_break) in cases {
        let channel = channel(name, &config).unwrap().unwrap();
        let said = |alert: Alert| {
            let body: Value = serde_json::from_slice(&channel.notifier.render(&of(alert), &sender()).parts[0]).unwrap();
            body.pointer(place).and_then(Value::as_str).unwrap().to_owned()
        };
        let expected = "OOM killer chose java (pid 4242) in /system.slice/app.service java";
        assert_eq!(said(oom()), format!("web-01:{line_break}{expected}"), "{name}");
        let inert = said(hostile());
        assert!(!inert.chars().any(|c| c != '\n' && c.is_control()), "{name}: {inert:?}");
        assert!(said(huge()).len() <= 16_000, "{name}");
    }
}

/// What chats send, with and without a template, for messages of all kinds.
fn chat(name: &str, template: &str, message: &Message) -> String {
    let mut config = everything_enabled();
    if !template.is_empty() {
        config.alerting.templates.by_channel.insert(name.into(), template.into());
    }
    String::from_utf8(channel(name, &config).unwrap().unwrap().notifier.render(message, &sender()).text().to_vec()).unwrap()
}

#[test]
fn a_chats_template_stands_between_title_and_foot() {
    for name in ["discord", "slack", "telegram", "teams"] {
        let text = chat(name, "Look: {{ message }}", &of(alert(Severity::Critical)));
        for said in ["Look: CPU usage 95", "CRITICAL web", "2026"] {
            assert!(text.contains(said), "{name} lacks {said}: {text}");
        }
        assert!(!text.contains("Metric"), "{name}: {text}");
        let group = chat(name, "Look: {{ metric }}", &grouped());
        assert!(group.matches("Look: ").count() >= 3, "{name}: {group}");
        assert!(group.contains("and 42 more"), "{name}: {group}");
    }
}

#[test]
fn a_chats_template_keeps_markup_out_and_limits() {
    for (name, template, escaped) in [
        ("discord", "**{{ labels.markup }}**", r"**\\*b\\* \\_i\\_"),
        ("slack", "*{{ labels.markup }}*", "&lt;b&gt;&amp;amp;&lt;/b&gt; &lt;@U1&gt;"),
        ("telegram", "<b>{{ labels.markup }}</b>", "<b>*b* _i_ ~s~ ||s|| `c` &lt;b&gt;"),
        ("teams", "{{ labels.markup }}", "*b* _i_"),
    ] {
        let text = chat(name, template, &of(hostile()));
        assert!(text.contains(escaped), "{name} lacks {escaped}: {text}");
        let without = chat(name, "", &of(huge()));
        assert_eq!(chat(name, "{{ labels }} {{ labels }} {{ message * 20 }}", &of(huge())), without, "{name}");
    }
}
