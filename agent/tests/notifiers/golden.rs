//! Every channel renders every kind of alert as the files in `tests/golden/notifiers` say. `UPDATE_EXPECT=1` writes them anew.

use std::path::PathBuf;

use sysops_agent::config::{Config, Login, ParseMode, Secret, Webhook};
use sysops_agent::model::{Alert, Labels, Message, News, Place, Severities, Severity, Status, Tally};
use sysops_agent::notifiers::{self, Rendered};

use super::{alert, discord, email, oom, sender, slack, syslog, teams, telegram};
use anstream::adapter::strip_bytes;
use serde_json::Value;

pub fn everything_enabled() -> Config {
    let mut config = Config::default();
    config.alerting.webhook = Some(Webhook {
        url: Secret::new("http://127.0.0.1/".into()),
        method: "POST".into(),
        headers: [].into(),
        hmac_secret: None,
        timeout: std::time::Duration::from_secs(1),
        retry_count: 3,
        retry_delay: std::time::Duration::from_secs(5),
        severities: Severities::from(Severity::Info),
    });
    config.alerting.discord = Some(discord::config("http://127.0.0.1/api/webhooks/1/t"));
    config.alerting.slack = Some(slack::config(slack::bot("http://127.0.0.1/api/")));
    config.alerting.telegram = Some(telegram::config("http://127.0.0.1/", ParseMode::Html));
    config.alerting.teams = Some(teams::config("http://127.0.0.1/"));
    config.alerting.email = Some(email::example());
    config.alerting.syslog = Some(syslog::example());
    config.alerting.alertmanager = Some(super::alertmanager::configured("http://127.0.0.1:9093", Login::None));
    config.alerting.pagerduty = Some(super::pagerduty::configured("http://127.0.0.1/"));
    config.alerting.opsgenie = Some(super::opsgenie::configured("http://127.0.0.1/"));
    config.alerting.ntfy = Some(super::ntfy::configured("http://127.0.0.1/topic", Login::None));
    config
}

/// A process that names itself, its arguments and its log lines in order to harm whoever reads them.
pub fn hostile() -> Alert {
    let markup = "*b* _i_ ~s~ ||s|| `c` <b>&amp;</b> <@U1> <!channel> @everyone @here [l](https://example.org/) <script> {{7*7}} #a -b .c !d";
    let mut hostile = alert(Severity::Warn);
    hostile.message =
        format!("line\nbreak \x1b[2J\x1b]0;title\x07 \"quoted\" \u{fffd} \u{9b}31m back\\slash \u{202e}txt\r<0> {markup}");
    hostile.labels = Labels::new().with("comm", "a b\"c\nd=\x1b[31m").with("empty", "").with("markup", markup).with("pid", "1");
    hostile.evidence.insert("log\x1b[1m".into(), "first\x1b[0m\nsecond\r\n\tthird\u{fffd}\0".into());
    hostile.evidence.insert("list".into(), vec!["\x1b[A", "\u{2028}", "```", markup].into());
    hostile.evidence.insert("cmdline".into(), "sh -c 'printf \"\\e[2J\"' \x7f".into());
    hostile
}

/// As much as anybody could put into an alert.
pub fn huge() -> Alert {
    let huge = "\u{fffd}\x1b<*&_`@".repeat(11_000);
    let mut alert = alert(Severity::Warn);
    alert.message.clone_from(&huge);
    alert.labels.set("cmdline", huge.clone());
    alert.evidence.insert("lines".into(), vec![huge.clone(); 100].into());
    alert.evidence.insert("text".into(), huge.replace('\x1b', "\n").into());
    alert
}

/// What was gathered: two that go on, one that is over, more that are only counted.
pub fn grouped() -> Message {
    let numbered = |alert: Alert, number: usize| Alert { id: format!("i-{number}"), delivery: format!("d-{number}"), ..alert };
    let over = Alert { status: Status::Resolved, ..alert(Severity::Warn) };
    let news = [alert(Severity::Warn), oom(), over].into_iter().zip(1..).map(|(alert, number)| News {
        alert: numbered(alert, number).into(),
        previous: None,
        superseded: 0,
    });
    Message {
        delivery: "d-1+2".into(),
        news: news.collect(),
        tallies: vec![
            Tally { severity: Severity::Warn, metric: "disk_usage_percent".into(), count: 40 },
            Tally { severity: Severity::Critical, metric: "kernel_oom_kill".into(), count: 2 },
        ],
        held: 45,
        late: Some(std::time::Duration::from_secs(7500)),
        ..Message::of(oom().into())
    }
}

/// An incident that this channel was told of before.
pub fn followed(status: Status, severity: Severity, before: Severity, place: Place) -> Message {
    let now = Alert { status, delivery: "d-2".into(), ..alert(severity) };
    let previous = Some(alert(before).into());
    Message { place, news: vec![News { alert: now.clone().into(), previous, superseded: 0 }], ..Message::of(now.into()) }
}

pub fn cases() -> Vec<(&'static str, Message)> {
    let of = |alert: Alert| Message::of(alert.into());
    vec![
        ("info", of(alert(Severity::Info))),
        ("warn", of(alert(Severity::Warn))),
        ("critical", of(oom())),
        ("emergency", of(alert(Severity::Emergency))),
        ("updated", followed(Status::Updated, Severity::Critical, Severity::Critical, Place::Replace("1".into()))),
        ("worse", followed(Status::Updated, Severity::Critical, Severity::Warn, Place::Answer("1".into()))),
        ("resolved", followed(Status::Resolved, Severity::Emergency, Severity::Emergency, Place::Replace("1".into()))),
        ("grouped", grouped()),
        ("hostile", of(hostile())),
    ]
}

pub fn render(channel: &str, message: &Message) -> Rendered {
    let (channels, errors) = notifiers::build(&everything_enabled());
    assert!(errors.is_empty(), "{errors:?}");
    let channel = channels.into_iter().find(|found| found.name == channel).unwrap();
    channel.notifier.render(message, &sender())
}

fn alone(channel: &str, alert: Alert) -> Rendered {
    render(channel, &Message::of(alert.into()))
}

/// Parts as they are sent, one after the other, with a line between them.
pub fn readable(rendered: &Rendered) -> Vec<u8> {
    rendered.parts.iter().map(|part| strip_bytes(part).into_vec()).collect::<Vec<_>>().join(&b"\n----\n"[..])
}

pub fn compare(file: &str, actual: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/notifiers").join(file);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; set UPDATE_EXPECT=1", path.display()));
    let (expected, actual) = (String::from_utf8_lossy(&expected), String::from_utf8_lossy(actual));
    assert!(expected == actual, "{} differs (UPDATE_EXPECT=1 accepts it)\n{expected}\n---\n{actual}", path.display());
}

#[test]
fn every_channel_renders_every_case_as_its_golden_file() {
    for row in notifiers::NOTIFIERS {
        for (case, message) in cases() {
            let rendered = render(row.name, &message);
            assert_eq!(rendered.delivery, message.delivery);
            compare(&format!("{}/{case}.txt", row.name), &readable(&rendered));
        }
    }
}

#[test]
fn the_terminal_colours_by_severity() {
    let pages: Vec<u8> = cases().iter().flat_map(|(_, message)| render("terminal", message).text()).collect();
    compare("terminal/colours.ansi", &pages);
}

#[test]
fn hostile_text_stays_text() {
    let terminal = alone("terminal", hostile()).text();
    let page = String::from_utf8(strip_bytes(&terminal).into_vec()).unwrap();
    assert!(!page.chars().any(|c| c != '\n' && c.is_control()), "{page:?}");
    assert!(page.contains(r"\u{1b}[2J") && page.contains(r"\u{202e}"), "what strip removed was ours alone: {page:?}");

    let syslog = alone("syslog", hostile()).text();
    assert!(!String::from_utf8(syslog.to_vec()).unwrap().chars().any(char::is_control));

    let body: Value = serde_json::from_slice(&alone("webhook", hostile()).text()).unwrap();
    assert_eq!(body["message"], hostile().message);
    assert_eq!(body["labels"]["comm"], "a b\"c\nd=\x1b[31m");
    assert_eq!(body["evidence"], Value::Object(hostile().evidence));
}

#[test]
fn a_hundred_kilobytes_are_bounded_where_a_line_is_and_whole_where_it_is_data() {
    let syslog = alone("syslog", huge()).text();
    assert!(syslog.len() <= 8192, "{}", syslog.len());
    assert!(std::str::from_utf8(&syslog).is_ok_and(|line| line.ends_with('…')));

    let terminal = alone("terminal", huge()).text();
    assert!(terminal.len() <= 32 * 1024, "{}", terminal.len());

    let body: Value = serde_json::from_slice(&alone("webhook", huge()).text()).unwrap();
    assert_eq!(body["message"], huge().message);
}

#[test]
fn the_webhook_has_its_fields_in_their_order() {
    let body = String::from_utf8(alone("webhook", oom()).text().to_vec()).unwrap();
    let fields = [
        "id",
        "delivery",
        "hostname",
        "timestamp",
        "status",
        "severity",
        "metric",
        "value",
        "threshold",
        "message",
        "labels",
        "duration_secs",
        "evidence",
    ];
    let places: Vec<_> = fields.iter().map(|field| body.find(&format!("\"{field}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap().as_object().unwrap().len(), fields.len());
}

#[test]
fn what_is_not_enabled_is_not_made() {
    let (channels, errors) = notifiers::build(&Config::default());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(channels.iter().map(|channel| channel.name).collect::<Vec<_>>(), ["terminal"]);
}
