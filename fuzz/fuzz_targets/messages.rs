//! What every channel makes of an alert whose texts somebody else wrote: processes name themselves, and logs say what they like.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sysops_agent::config;
use sysops_agent::model::{Alert, Evidence, Labels, Message, News, Place, Severity, Status, Tally, Timestamp};
use sysops_agent::notifiers::{self, Channel, Sender};

/// Every channel, at addresses that nobody ever calls.
const CONFIG: &str = r#"
[alerting.discord]
enabled = true
webhook_url = "http://127.0.0.1/"
mention_roles = ["1"]
[alerting.slack]
enabled = true
webhook_url = "http://127.0.0.1/"
mention_users = ["U1"]
[alerting.telegram]
enabled = true
bot_token = "123456789:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
chat_id = 1
[alerting.email]
enabled = true
smtp_host = "127.0.0.1"
smtp_tls = false
from = "a@example.org"
to = ["b@example.org"]
[alerting.webhook]
enabled = true
url = "http://127.0.0.1/"
[alerting.syslog]
enabled = true
[alerting.alertmanager]
enabled = true
url = "http://127.0.0.1/"
[alerting.pagerduty]
enabled = true
routing_key = "0123456789abcdef0123456789abcdef"
[alerting.opsgenie]
enabled = true
api_key = "00000000-0000-0000-0000-000000000000"
[alerting.teams]
enabled = true
webhook_url = "http://127.0.0.1/"
[alerting.ntfy]
enabled = true
url = "http://127.0.0.1/topic"
"#;

/// Those of them whose bodies are JSON.
const JSON: [&str; 8] = ["discord", "slack", "webhook", "alertmanager", "pagerduty", "opsgenie", "teams", "ntfy"];

static CHANNELS: LazyLock<Vec<Channel>> = LazyLock::new(|| {
    let markdown = CONFIG.replace("chat_id = 1", "chat_id = 1\nparse_mode = \"MarkdownV2\"");
    let structured = CONFIG.replace("[alerting.syslog]", "[alerting.syslog]\nformat = \"rfc5424\"");
    let all = [CONFIG.to_owned(), markdown, structured].into_iter().flat_map(|text| {
        let config = config::parse(&text, Path::new("fuzz.toml"), &|_| None).expect("the configuration is good");
        let (channels, errors) = notifiers::build(&config);
        assert!(errors.is_empty(), "{errors:?}");
        channels
    });
    all.collect()
});

fuzz_target!(|input: &[u8]| {
    let [kind, texts @ ..] = input else { return };
    let texts: Vec<String> = texts.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let text = |index: usize| texts.get(index).cloned().unwrap_or_default();
    let mut evidence = Evidence::new();
    evidence.insert(text(3), text(4).into());
    evidence.insert("lines".into(), texts.clone().into());
    let alert = Alert {
        id: "1".into(),
        delivery: "1-1".into(),
        at: Timestamp::from_secs(1_771_745_400),
        status: [Status::Firing, Status::Updated, Status::Resolved][usize::from(*kind) % 3],
        severity: Severity::ALL[usize::from(*kind) / 3 % 4],
        metric: text(5).into(),
        value: f64::from(*kind),
        threshold: (kind % 2 == 0).then_some(1.0),
        message: text(0),
        labels: Labels::new().with(text(1), text(2)).with("comm", text(0)),
        duration: Duration::from_secs(u64::from(*kind)),
        count: u64::from(*kind),
        evidence,
    };
    let mut message = Message::of(alert.clone().into());
    if kind & 64 != 0 {
        message.place = Place::Replace("1".into());
    }
    if kind & 128 != 0 {
        let other = Alert { id: "2".into(), ..alert.clone() };
        message.news.push(News { alert: other.into(), previous: Some(alert.into()), superseded: 1 });
        message.tallies.push(Tally { severity: Severity::Warn, metric: text(5), count: 7 });
    }
    let sender = Sender { hostname: text(1), address: String::new(), time_zone: jiff::tz::TimeZone::UTC, pid: 1 };
    for channel in CHANNELS.iter() {
        let rendered = channel.notifier.render(&message, &sender);
        assert!(!rendered.parts.is_empty() && !rendered.parts[0].is_empty(), "{} says nothing", channel.name);
        if JSON.contains(&channel.name) {
            for part in &rendered.parts {
                serde_json::from_slice::<serde_json::Value>(part).expect("the body is JSON");
            }
        }
    }
});
