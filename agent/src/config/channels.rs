//! The keys of `[alerting]` and its channels: type, range and default of each.
//!
//! The default of each `min_severity` follows the table of what goes where: webhook and syslog get everything, chats what
//! somebody should look at, mail what can't wait.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::Section;
use super::sections::DAY;
use super::silences::silences;
use super::value::Form;
use super::{
    Alerting, Alertmanager, Discord, Email, Escalation, Grouping, Login, Ntfy, Opsgenie, Outbox, Pagerduty, ParseMode, Secret,
    Slack, SlackAccess, SmtpEncryption, Syslog, SyslogFacility, SyslogFormat, SyslogTarget, Teams, Telegram, Templates, Webhook,
    text,
};
use crate::model::Severity;

/// Channels that can have a template of their own: all but the terminal.
const CHANNELS: [&str; 11] =
    ["discord", "slack", "telegram", "email", "webhook", "syslog", "alertmanager", "pagerduty", "opsgenie", "teams", "ntfy"];

const PARSE_MODES: [(&str, ParseMode); 2] = [("HTML", ParseMode::Html), ("MarkdownV2", ParseMode::MarkdownV2)];

const SMTP_TLS_MODES: [(&str, SmtpEncryption); 2] =
    [("starttls", SmtpEncryption::StartTls), ("implicit", SmtpEncryption::Implicit)];
/// The port on which servers speak TLS from the first byte (RFC 8314, section 7.3).
const SUBMISSIONS: u16 = 465;

const SYSLOG_FORMATS: [(&str, SyslogFormat); 2] = [("rfc3164", SyslogFormat::Rfc3164), ("rfc5424", SyslogFormat::Rfc5424)];

/// What [`text::discord_name`] takes.
const DISCORD_NAME: &str = "a name of at most 80 characters without \"discord\" and \"clyde\"";

/// Where Slack's Web API is.
const SLACK_API: &str = "https://slack.com/api/";

/// Where Telegram's bot API is.
const TELEGRAM_API: &str = "https://api.telegram.org/";

/// Most people or roles that a message mentions.
const MENTIONS_MAX: usize = 50;

/// Name under which messages appear where a channel has one.
const SENDER: &str = "sysops-agent";

pub(super) fn alerting(s: &mut Section<'_>) -> Alerting {
    let default = Alerting::default();
    Alerting {
        min_interval: s.secs("min_interval_secs", 1..=DAY, default.min_interval),
        dedup_window: s.secs("dedup_window_secs", 1..=DAY, default.dedup_window),
        emergency_bypass_rate_limit: s.boolean("emergency_bypass_rate_limit", default.emergency_bypass_rate_limit),
        max_alerts_per_minute: s.integer("max_alerts_per_minute", 1..=10_000, default.max_alerts_per_minute),
        max_alerts_per_hour: s.integer("max_alerts_per_hour", 1..=100_000, default.max_alerts_per_hour),
        max_alerts_per_hour_overall: s.integer("max_alerts_per_hour_overall", 1..=100_000, default.max_alerts_per_hour_overall),
        outbox: s.section("outbox", outbox),
        grouping: s.section("grouping", grouping),
        escalation: s.section("escalation", escalation),
        ca_file: s.optional_path("ca_file"),
        recovery_enabled: s.section("recovery", |s| s.boolean("enabled", default.recovery_enabled)),
        silences: silences(s),
        templates: s.section("templates", templates),
        discord: s.channel("discord", discord),
        slack: s.channel("slack", slack),
        telegram: s.channel("telegram", telegram),
        email: s.channel("email", email),
        webhook: s.channel("webhook", webhook),
        syslog: s.channel("syslog", syslog),
        alertmanager: s.channel("alertmanager", alertmanager),
        pagerduty: s.channel("pagerduty", pagerduty),
        opsgenie: s.channel("opsgenie", opsgenie),
        teams: s.channel("teams", teams),
        ntfy: s.channel("ntfy", ntfy),
    }
}

fn outbox(s: &mut Section<'_>) -> Outbox {
    let default = Outbox::default();
    Outbox {
        max_size: s.mebibytes("max_size_mb", 1..=4096, default.max_size),
        max_age: s.hours("max_age_hours", 1..=720, default.max_age),
    }
}

fn grouping(s: &mut Section<'_>) -> Grouping {
    let default = Grouping::default();
    Grouping { enabled: s.boolean("enabled", default.enabled), window: s.secs("window_secs", 1..=3600, default.window) }
}

fn escalation(s: &mut Section<'_>) -> Escalation {
    let default = Escalation::default();
    let to_emergency = default.critical_to_emergency_after;
    Escalation {
        enabled: s.boolean("enabled", default.enabled),
        warn_to_critical_after: s.integer("warn_to_critical_after", 1..=1000, default.warn_to_critical_after),
        critical_to_emergency_after: s.minutes("critical_to_emergency_after_mins", 1..=10_080, to_emergency),
    }
}

fn templates(s: &mut Section<'_>) -> Templates {
    // The body of a webhook is data.
    let mut template = |key| s.template(key, key == "webhook");
    Templates {
        default: template("default"),
        by_channel: CHANNELS.into_iter().filter_map(|channel| Some((channel.to_owned(), template(channel)?))).collect(),
    }
}

// What a channel requires is unwrapped in its last fields, when all keys are read: one that is never asked for would be
// called unknown.

/// Whom a message calls; as many as every service takes in one message.
fn mentions(s: &mut Section<'_>, key: &'static str, right: &str, check: fn(&str) -> Result<String, String>) -> Vec<String> {
    let ids = s.ids(key, right, check);
    if ids.len() > MENTIONS_MAX {
        let form = Form::new("an array of strings", format!("at most {MENTIONS_MAX}, or one id that stands for all of them"));
        s.lacks(key, "is too long", &form);
    }
    ids
}

fn discord(s: &mut Section<'_>) -> Option<Discord> {
    let webhook_url = s.required_secret("webhook_url", text::WEB_ADDRESS, text::web_address);
    Some(Discord {
        username: s.string("username", DISCORD_NAME, text::discord_name, SENDER.into()),
        mention_roles: mentions(s, "mention_roles", "the digits of a role's id", text::number_id),
        embed_color_warn: s.colour("embed_color_warn", 0xff_a500),
        embed_color_critical: s.colour("embed_color_critical", 0xff_0000),
        embed_color_emergency: s.colour("embed_color_emergency", 0x8b_0000),
        severities: s.severities(Severity::Warn),
        webhook_url: webhook_url?,
    })
}

fn slack(s: &mut Section<'_>) -> Option<Slack> {
    let url = s.optional_secret("webhook_url", text::WEB_ADDRESS, text::web_address);
    let token = s.optional_secret("bot_token", "the token of an app's bot, which begins with \"xox\"", text::slack_token);
    let api_url = s.string("api_url", text::WEB_ADDRESS, text::web_address, SLACK_API.into());
    let channel = s.optional("channel", "a channel such as \"#ops\"", text::word);
    let is_bot = s.has("bot_token");
    let form = |right: &str| Form::new("a string", right);
    match (s.has("webhook_url"), is_bot) {
        (false, false) => s.lacks("webhook_url", "is missing", &form("the URL of an incoming webhook, or a bot_token")),
        (true, true) => s.lacks("bot_token", "stands beside webhook_url", &form("one of the two alone")),
        _ => {}
    }
    if is_bot && !s.has("channel") && !s.has("webhook_url") {
        s.lacks("channel", "is missing, but there is a bot_token", &form("a channel such as \"#ops\""));
    }
    if s.has("api_url") && !is_bot {
        s.lacks("bot_token", "is missing, but there is an api_url", &form("both, or leave api_url out too"));
    }
    Some(Slack {
        mention_users: mentions(s, "mention_users", "a member id such as \"U012AB3CD\"", text::letter_id),
        severities: s.severities(Severity::Warn),
        access: match (url, token) {
            (Some(url), _) => SlackAccess::Webhook(url),
            (None, token) => SlackAccess::Bot { token: token?, api_url: Secret::new(api_url) },
        },
        channel,
    })
}

fn telegram(s: &mut Section<'_>) -> Option<Telegram> {
    let bot_token = s.required_secret("bot_token", "the token as BotFather gave it", text::bot_token);
    let chat_id = s.required_id("chat_id", "a chat's number, or the \"@name\" of a channel", text::chat_id);
    let api_url = s.string("api_url", text::WEB_ADDRESS, text::web_address, TELEGRAM_API.into());
    Some(Telegram {
        api_url: Secret::new(api_url),
        parse_mode: s.choice("parse_mode", &PARSE_MODES, ParseMode::Html),
        disable_notification: s.boolean("disable_notification", false),
        severities: s.severities(Severity::Warn),
        bot_token: bot_token?,
        chat_id: chat_id?,
    })
}

fn email(s: &mut Section<'_>) -> Option<Email> {
    let smtp_host = s.required_string("smtp_host", "the mail server's name or address", text::host);
    let from = s.required_string("from", text::MAILBOX, text::mailbox);
    let to = s.required_strings("to", text::MAILBOX, text::mailbox);
    both_or_neither(s);
    let smtp_port = s.integer("smtp_port", 1..=65_535, 587);
    let usual = if smtp_port == SUBMISSIONS { SmtpEncryption::Implicit } else { SmtpEncryption::StartTls };
    let is_encrypted = s.boolean("smtp_tls", true);
    let mode = s.choice("smtp_tls_mode", &SMTP_TLS_MODES, usual);
    if !is_encrypted {
        if s.has("smtp_tls_mode") {
            let one = Form::new("a boolean", "true, or leave smtp_tls_mode out");
            s.lacks("smtp_tls", "is false, but there is a smtp_tls_mode", &one);
        }
        if s.has("password") && !smtp_host.as_deref().is_some_and(is_this_host) {
            let one = Form::new("a boolean", "true, or leave username and password out");
            s.lacks("smtp_tls", "is false, and the password would be sent to another host in the clear", &one);
        }
    }
    Some(Email {
        smtp_port,
        encryption: if is_encrypted { mode } else { SmtpEncryption::None },
        username: s.optional("username", "the login name", text::line),
        password: s.optional_secret("password", "the login's password", text::line),
        subject_prefix: s.string("subject_prefix", "one line of text", text::line_or_empty, format!("[{SENDER}]")),
        severities: s.severities(Severity::Critical),
        smtp_host: smtp_host?,
        from: from?,
        to: to?,
    })
}

/// Whether a name or address is the host itself, whatever its network.
fn is_this_host(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn webhook(s: &mut Section<'_>) -> Option<Webhook> {
    let url = s.required_secret("url", text::WEB_ADDRESS, text::web_address);
    Some(Webhook {
        method: s.string("method", "the name of a method with a body, such as \"POST\" or \"PUT\"", text::method, "POST".into()),
        headers: headers(s),
        hmac_secret: s.optional_secret("hmac_secret", "a key of 16 to 1024 characters", text::hmac_secret),
        timeout: s.secs("timeout_secs", 1..=300, Duration::from_secs(10)),
        retry_count: s.integer("retry_count", 0..=100, 3),
        retry_delay: s.secs("retry_delay_secs", 1..=3600, Duration::from_secs(5)),
        severities: s.severities(Severity::Info),
        url: url?,
    })
}

fn headers(s: &mut Section<'_>) -> BTreeMap<String, Secret> {
    let form = Form::secret("a table of strings", "names and values of headers, as in { X-Team = \"ops\" }");
    let header = Form::secret("a string", "the header's value in visible ASCII characters and blanks");
    s.entries("headers", &form, &header, |name, value| {
        if !text::is_token(name) {
            return Err(format!("the name of a header is not valid; write {}", form.right));
        }
        value.text_as(text::header_value).map(Secret::new)
    })
}

fn syslog(s: &mut Section<'_>) -> Option<Syslog> {
    let socket = s.path("socket", "/dev/log".into());
    let address = s.optional("address", text::SYSLOG_ADDRESS, text::syslog_address);
    Some(Syslog {
        facility: s.choice("facility", &SyslogFacility::NAMES, SyslogFacility::DAEMON),
        tag: s.string("tag", "1 to 48 visible ASCII characters without \":\" and \"[\"", text::syslog_tag, SENDER.into()),
        format: s.choice("format", &SYSLOG_FORMATS, SyslogFormat::Rfc3164),
        target: address.unwrap_or(SyslogTarget::Local(socket)),
        severities: s.severities(Severity::Info),
    })
}

fn alertmanager(s: &mut Section<'_>) -> Option<Alertmanager> {
    let url = s.optional_secret("url", text::WEB_ADDRESS, text::web_address);
    let members = s.secrets("urls", 16, text::WEB_ADDRESS, text::web_address);
    if !s.has("url") && !s.has("urls") {
        s.lacks("url", "is missing", &Form::new("a string", text::WEB_ADDRESS));
    }
    Some(Alertmanager {
        login: login(s),
        severities: s.severities(Severity::Info),
        urls: url.into_iter().chain(members).collect(),
    })
}

fn pagerduty(s: &mut Section<'_>) -> Option<Pagerduty> {
    let key = "the 32 letters and digits of an integration key of the Events API v2";
    let routing_key = s.required_secret("routing_key", key, text::routing_key);
    Some(Pagerduty {
        api_url: s.web_address("api_url", "https://events.pagerduty.com"),
        severities: s.severities(Severity::Critical),
        routing_key: routing_key?,
    })
}

fn opsgenie(s: &mut Section<'_>) -> Option<Opsgenie> {
    let api_key = s.required_secret("api_key", "the key of an API integration", text::token);
    let responder = "\"team:NAME\", \"user:MAIL\", \"schedule:NAME\" or \"escalation:NAME\"";
    Some(Opsgenie {
        api_url: s.web_address("api_url", "https://api.opsgenie.com"),
        responders: s.strings("responders", 50, responder, text::responder),
        tags: s.strings("tags", 20, "a word of at most 50 characters without \",\"", text::tag),
        severities: s.severities(Severity::Critical),
        api_key: api_key?,
    })
}

fn teams(s: &mut Section<'_>) -> Option<Teams> {
    let webhook_url = s.required_secret("webhook_url", text::WEB_ADDRESS, text::web_address);
    Some(Teams { severities: s.severities(Severity::Warn), webhook_url: webhook_url? })
}

fn ntfy(s: &mut Section<'_>) -> Option<Ntfy> {
    let url = s.required_secret("url", "an http:// or https:// URL that ends in a topic", text::topic_address);
    Some(Ntfy { login: login(s), severities: s.severities(Severity::Warn), url: url? })
}

/// Name and password, or a token.
fn login(s: &mut Section<'_>) -> Login {
    both_or_neither(s);
    // Whole logins are pasted there.
    let username = s.optional_secret("username", "the login name, without \":\"", text::login_name);
    let password = s.optional_secret("password", "the login's password", text::line);
    match (s.optional_secret("token", "the token in visible ASCII characters", text::token), username, password) {
        (Some(token), _, _) => Login::Bearer(token),
        (None, Some(username), Some(password)) => Login::Basic(username, password),
        _ => Login::None,
    }
}

fn both_or_neither(s: &Section<'_>) {
    for (key, other) in [("username", "password"), ("password", "username")] {
        if s.has(other) && !s.has(key) {
            let both = Form::new("a string", format!("both, or leave {other} out too"));
            s.lacks(key, &format!("is missing, but there is a {other}"), &both);
        }
    }
}
