use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::templates::{OF_ALERT, OF_MESSAGE};
use crate::model::{Labels, News, Severity, Status, Tally, Timestamp};

const MARKUP: &str = "<b>&amp;</b> \"q\" *b* _i_ `c` [l](http://x.y) <@U1> @everyone a.b!\n\x1b[31m";

const PLAIN: Escape = Escape::Text(str::to_owned);
/// A channel in whose markup only stars act.
const STARRED: Escape = Escape::Text(|text| text.replace('*', "+"));

fn sender() -> Sender {
    Sender {
        hostname: "web-01".into(),
        address: "192.0.2.7".into(),
        time_zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(9)),
        pid: 1,
    }
}

fn alert(message: &str) -> Alert {
    let evidence = json!({ "trend": "rising 1.0 per minute", "recent": [[10.0, 95.2]], "stack": "a\nb\x1b\n", "pages": 12 });
    Alert {
        id: "i-1".into(),
        delivery: "d-1".into(),
        at: Timestamp::from_nanos(1_771_745_400_250_000_000),
        status: Status::Firing,
        severity: Severity::Critical,
        metric: "memory_used_bytes".into(),
        value: 2_147_483_648.0,
        threshold: None,
        message: message.into(),
        labels: Labels::new().with("mount", "/var"),
        duration: Duration::from_secs(330),
        count: 33,
        evidence: evidence.as_object().cloned().unwrap_or_default(),
    }
}

fn template(channel: &'static str, text: &str) -> Template {
    let mut config = Config::default();
    config.alerting.templates.by_channel.insert(channel.into(), text.into());
    Template::of(&config, channel).unwrap()
}

fn fill(text: &str, escape: Escape, message: &str) -> Option<String> {
    template("slack", text).render(&Message::of(alert(message).into()), &sender(), escape)
}

#[test]
fn there_is_what_the_configuration_knows() {
    let values = of_alert(&alert("a"), &sender(), PLAIN);
    assert_eq!(values.keys().copied().collect::<Vec<_>>(), OF_ALERT);
    assert_eq!(OF_MESSAGE, ["alerts", "remarks"]);
}

#[test]
fn values_read_as_in_the_built_in_texts() {
    for (text, expected) in [
        ("{{ severity|upper }} {{ status }} {{ hostname }} {{ address }}", "CRITICAL firing web-01 192.0.2.7"),
        ("{{ metric }} {{ value_with_unit }} {{ value }}", "memory_used_bytes 2.0 GiB 2147483648"),
        ("{{ threshold }}|{{ threshold_with_unit }}|{{ threshold is none }}", "||true"),
        ("{{ 95.2345678 }} {{ 90.0 }} {{ value > 1 }}", "95.235 90 true"),
        ("{{ duration }} {{ duration_secs }} {{ count }} {{ id }} {{ delivery }}", "5m 30s 330 33 i-1 d-1"),
        ("{{ timestamp }}", "2026-02-22 16:30:00 +09:00"),
        ("{{ trend }}; {{ labels.mount }}{{ labels.device }}{{ labels.a.b }}", "rising 1.0 per minute; /var"),
        ("{{ labels }} {{ evidence.recent }} {{ evidence.pages }}", r#"{"mount":"/var"} [[10.0,95.2]] 12"#),
        ("{{ evidence.stack }}", "a\nb\\u{1b}"),
        ("{{ message|replace('u', 'a')|upper }}", "FALL"),
        ("{% for name, value in labels|items %}{{ name }}={{ value }}{% endfor %}", "mount=/var"),
        ("{% set x %}<{{ message }}>{% endset %}{{ x }}", "<full>"),
    ] {
        assert_eq!(fill(text, PLAIN, "full").as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn markup_of_the_host_stays_text() {
    let none = r#"<b>&amp;</b> "q" *b* _i_ `c` [l](http://x.y) <@U1> @everyone a.b!\n\u{1b}[31m"#;
    for (escape, expected) in [(PLAIN, none.to_owned()), (STARRED, none.replace('*', "+"))] {
        // What the template itself holds is markup, also where it is put together before.
        assert_eq!(fill("<b>*{{ message }}*</b>", escape, MARKUP), Some(format!("<b>*{expected}*</b>")));
        assert_eq!(fill("{% set x %}*{{ message }}{% endset %}{{ x }}", escape, MARKUP), Some(format!("*{expected}")));
        assert_eq!(fill("{{ '*' ~ message }}", escape, MARKUP).map(|text| text.len()), Some(expected.len() + 1));
    }
    assert_eq!(fill("*{{ '*' }}{{ labels.mount }}", STARRED, ""), Some("*+/var".to_owned()));
}

#[test]
fn json_is_made_of_values() {
    let text = r#"{"t": {{ severity ~ ": " ~ message }}, "v": {{ value }}, "l": {{ threshold }}, "labels": {{ labels }}, "e": {{ evidence }}, "n": {{ nothing }}, "at": {{ timestamp }}}"#;
    let filled = fill(text, Escape::Json, MARKUP).unwrap();
    let body: Json = serde_json::from_str(&filled).unwrap();
    assert_eq!(body["t"], format!("critical: {MARKUP}"));
    assert_eq!((&body["v"], &body["l"], &body["n"]), (&json!(2_147_483_648.0), &Json::Null, &Json::Null));
    assert_eq!(body["labels"], json!({ "mount": "/var" }));
    assert_eq!(body["e"], Json::Object(alert("").evidence));
    assert_eq!(body["at"], "2026-02-22T16:30:00.250+09:00");
}

fn group() -> Message {
    let of = |text: &str, status| News { alert: Arc::new(Alert { status, ..alert(text) }), previous: None, superseded: 0 };
    Message {
        delivery: "g".into(),
        news: vec![of("first", Status::Resolved), of("second", Status::Firing)],
        tallies: vec![Tally { severity: Severity::Warn, metric: "a_b".into(), count: 2 }],
        ..Message::of(alert("x").into())
    }
}

#[test]
fn no_alert_of_a_group_is_left_out() {
    for (text, expected) in [
        ("{{ status }} {{ message }}", "resolved first\nfiring second\nand 2 more: 2 warn a_b"),
        (
            "{{ message }}{% for remark in remarks %} ({{ remark }}){% endfor %}",
            "first (and 2 more: 2 warn a_b)\nsecond (and 2 more: 2 warn a_b)",
        ),
        ("{{ alerts|length }} {{ message }} {{ delivery }}", "2 second g\nand 2 more: 2 warn a_b"),
        (
            "{% for alert in alerts %}{{ loop.index }} {{ alert.message }} {{ alert.delivery }}\n{% endfor %}{{ remarks|join }}",
            "1 first d-1\n2 second d-1\nand 2 more: 2 warn a_b",
        ),
    ] {
        let filled = template("telegram", text).render(&group(), &sender(), STARRED);
        assert_eq!(filled.as_deref(), Some(expected), "{text}");
    }
    let each = template("syslog", "{{ message }}").render_each(&group(), &sender(), PLAIN);
    assert_eq!(each, Some(vec!["first".to_owned(), "second".to_owned()]));
}

#[test]
fn what_fails_makes_nothing() {
    for (text, message) in [
        ("{{ message / 2 }}", "a"),
        ("{{ message }}{{ message }}{% if severity == 'warn' %}{% endif %}{{ 1 / 0 }}", "a"),
        ("{% if severity == 'warn' %}only warnings{% endif %}", "a"),
        (
            "{% for a in message %}{% for b in message %}{% for c in message %}{% for d in message %}x{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
            &"a".repeat(1000),
        ),
        ("{{ message * 100 }}", &"a".repeat(1000)),
        ("{{ message|replace('', message) }}", &"a".repeat(1000)),
        ("{{ message|replace('a', message)|replace('a', message) }}", &"a".repeat(1000)),
    ] {
        let template = template("slack", text);
        for _ in 0..2 {
            assert_eq!(template.render(&Message::of(alert(message).into()), &sender(), PLAIN), None, "{text}");
        }
        assert!(template.has_failed.load(Ordering::Relaxed));
    }
    assert_eq!(fill("text: {{ message }}", Escape::Json, "a"), None, "no JSON");
}

#[test]
fn a_channel_has_its_own_template_or_that_of_all() {
    let mut config = Config::default();
    assert!(Template::of(&config, "slack").is_none());
    config.alerting.templates.default = Some("all".into());
    config.alerting.templates.by_channel.insert("slack".into(), "own".into());
    let text = |channel| Template::of(&config, channel).map(|template| template.text);
    assert_eq!(["slack", "ntfy", "webhook"].map(text), [Some("own".into()), Some("all".into()), None]);
}
