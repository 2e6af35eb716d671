//! `[alerting]` and its channels.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use crate::model::{Severities, Silence};

/// `[alerting]`
#[derive(Clone, Debug, PartialEq)]
pub struct Alerting {
    /// Least time between two messages about one incident that goes on.
    pub min_interval: Duration,
    /// Repetitions within this time belong to one incident.
    pub dedup_window: Duration,
    /// Whether Emergency passes the rate limits.
    pub emergency_bypass_rate_limit: bool,
    /// Messages a minute by channel.
    pub max_alerts_per_minute: u32,
    /// Messages an hour by channel.
    pub max_alerts_per_hour: u32,
    /// Messages an hour over all channels.
    pub max_alerts_per_hour_overall: u32,
    /// `[alerting.outbox]`
    pub outbox: Outbox,
    /// `[alerting.grouping]`
    pub grouping: Grouping,
    /// `[alerting.escalation]`
    pub escalation: Escalation,
    /// `[alerting.recovery] enabled`
    pub recovery_enabled: bool,
    /// Certificate authorities in PEM that all channels trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// `[[alerting.silences]]`
    pub silences: Vec<Silence>,
    /// `[alerting.templates]`
    pub templates: Templates,
    /// `[alerting.discord]`, `None` unless enabled; the same for the other channels.
    pub discord: Option<Discord>,
    /// `[alerting.slack]`
    pub slack: Option<Slack>,
    /// `[alerting.telegram]`
    pub telegram: Option<Telegram>,
    /// `[alerting.email]`
    pub email: Option<Email>,
    /// `[alerting.webhook]`
    pub webhook: Option<Webhook>,
    /// `[alerting.syslog]`
    pub syslog: Option<Syslog>,
    /// `[alerting.alertmanager]`
    pub alertmanager: Option<Alertmanager>,
    /// `[alerting.pagerduty]`
    pub pagerduty: Option<Pagerduty>,
    /// `[alerting.opsgenie]`
    pub opsgenie: Option<Opsgenie>,
    /// `[alerting.teams]`
    pub teams: Option<Teams>,
    /// `[alerting.ntfy]`
    pub ntfy: Option<Ntfy>,
}

impl Default for Alerting {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(300),
            dedup_window: Duration::from_secs(600),
            emergency_bypass_rate_limit: true,
            max_alerts_per_minute: 10,
            max_alerts_per_hour: 60,
            max_alerts_per_hour_overall: 100,
            outbox: Outbox::default(),
            grouping: Grouping::default(),
            escalation: Escalation::default(),
            recovery_enabled: true,
            ca_file: None,
            silences: Vec::new(),
            templates: Templates::default(),
            discord: None,
            slack: None,
            telegram: None,
            email: None,
            webhook: None,
            syslog: None,
            alertmanager: None,
            pagerduty: None,
            opsgenie: None,
            teams: None,
            ntfy: None,
        }
    }
}

/// `[alerting.outbox]`
#[derive(Clone, Debug, PartialEq)]
pub struct Outbox {
    /// Bytes that alerts on disk may take.
    pub max_size: u64,
    /// How long an alert is tried.
    pub max_age: Duration,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { max_size: 64 << 20, max_age: Duration::from_secs(86_400) }
    }
}

/// `[alerting.grouping]`
#[derive(Clone, Debug, PartialEq)]
pub struct Grouping {
    /// Whether alerts that follow one another are gathered.
    pub enabled: bool,
    /// How long they are gathered.
    pub window: Duration,
}

impl Default for Grouping {
    fn default() -> Self {
        Self { enabled: true, window: Duration::from_secs(30) }
    }
}

/// `[alerting.escalation]`
#[derive(Clone, Debug, PartialEq)]
pub struct Escalation {
    /// Whether severities rise with time.
    pub enabled: bool,
    /// Consecutive Warn findings that make a Critical one.
    pub warn_to_critical_after: u32,
    /// Time unresolved after which Critical becomes Emergency.
    pub critical_to_emergency_after: Duration,
}

impl Default for Escalation {
    fn default() -> Self {
        Self { enabled: true, warn_to_critical_after: 5, critical_to_emergency_after: Duration::from_secs(30 * 60) }
    }
}

/// `[alerting.templates]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Templates {
    /// The template of channels without one of their own.
    pub default: Option<String>,
    /// Templates by channel name.
    pub by_channel: BTreeMap<String, String>,
}

/// `[alerting.discord]`
#[derive(Clone, Debug, PartialEq)]
pub struct Discord {
    /// The webhook; its path is a credential.
    pub webhook_url: Secret,
    /// Name that messages are posted under.
    pub username: String,
    /// Role ids mentioned from Critical on.
    pub mention_roles: Vec<String>,
    /// 24-bit RGB.
    pub embed_color_warn: u32,
    /// 24-bit RGB.
    pub embed_color_critical: u32,
    /// 24-bit RGB.
    pub embed_color_emergency: u32,
    /// What is sent here.
    pub severities: Severities,
}

/// How Slack is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum SlackAccess {
    /// An incoming webhook; its path is a credential.
    Webhook(Secret),
    /// The Web API, as an app's bot.
    Bot {
        /// The bot's credential.
        token: Secret,
        /// Where the methods of the API are.
        api_url: Secret,
    },
}

/// `[alerting.slack]`
#[derive(Clone, Debug, PartialEq)]
pub struct Slack {
    /// How it is reached.
    pub access: SlackAccess,
    /// The bot's channel; of a webhook one that is not its own, where it may choose.
    pub channel: Option<String>,
    /// User ids mentioned from Critical on.
    pub mention_users: Vec<String>,
    /// What is sent here.
    pub severities: Severities,
}

/// How Telegram reads a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseMode {
    /// Telegram's subset of HTML.
    Html,
    /// Telegram's second Markdown dialect.
    MarkdownV2,
}

/// `[alerting.telegram]`
#[derive(Clone, Debug, PartialEq)]
pub struct Telegram {
    /// The bot's credential.
    pub bot_token: Secret,
    /// Where the bot API is.
    pub api_url: Secret,
    /// The chat that receives messages.
    pub chat_id: String,
    /// Markup of messages.
    pub parse_mode: ParseMode,
    /// Whether messages arrive without a sound.
    pub disable_notification: bool,
    /// What is sent here.
    pub severities: Severities,
}

/// How a connection to a mail server is encrypted: `smtp_tls` and `smtp_tls_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpEncryption {
    /// Not at all.
    None,
    /// From the command STARTTLS on (RFC 3207), which the server has to offer.
    StartTls,
    /// From the first byte (RFC 8314, section 3).
    Implicit,
}

/// `[alerting.email]`
#[derive(Clone, Debug, PartialEq)]
pub struct Email {
    /// The mail server.
    pub smtp_host: String,
    /// Its port.
    pub smtp_port: u16,
    /// How the connection is encrypted.
    pub encryption: SmtpEncryption,
    /// Login name.
    pub username: Option<String>,
    /// Password of the login.
    pub password: Option<Secret>,
    /// Sender.
    pub from: String,
    /// Recipients.
    pub to: Vec<String>,
    /// Start of every subject.
    pub subject_prefix: String,
    /// What is sent here.
    pub severities: Severities,
}

/// `[alerting.webhook]`
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Where alerts are sent; may carry a credential.
    pub url: Secret,
    /// Method of the request: a token (RFC 9110, section 9.1) of a method that has a body.
    pub method: String,
    /// Further headers; their values may be credentials.
    pub headers: BTreeMap<String, Secret>,
    /// Key of the signature, where requests are signed.
    pub hmac_secret: Option<Secret>,
    /// Limit of one attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retry_count: u32,
    /// Wait before the second attempt; it doubles with each further one.
    pub retry_delay: Duration,
    /// What is sent here.
    pub severities: Severities,
}

/// Facility of syslog messages (RFC 5424, section 6.2.1); the value is the facility's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyslogFacility(pub u8);

impl SyslogFacility {
    /// System services.
    pub const DAEMON: Self = Self(3);

    /// Names as in syslog(3). Without `kern`, under which programs can't log.
    pub const NAMES: [(&str, Self); 19] = [
        ("user", Self(1)),
        ("mail", Self(2)),
        ("daemon", Self::DAEMON),
        ("auth", Self(4)),
        ("syslog", Self(5)),
        ("lpr", Self(6)),
        ("news", Self(7)),
        ("uucp", Self(8)),
        ("cron", Self(9)),
        ("authpriv", Self(10)),
        ("ftp", Self(11)),
        ("local0", Self(16)),
        ("local1", Self(17)),
        ("local2", Self(18)),
        ("local3", Self(19)),
        ("local4", Self(20)),
        ("local5", Self(21)),
        ("local6", Self(22)),
        ("local7", Self(23)),
    ];
}

/// Form of syslog lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogFormat {
    /// The BSD syslog protocol: a line for people.
    Rfc3164,
    /// The syslog protocol: structured data, and a time with zone.
    Rfc5424,
}

/// Where syslog lines go: `socket` or `address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogTarget {
    /// A local socket, normally `/dev/log`.
    Local(PathBuf),
    /// A server; a datagram for each line (RFC 5426).
    Udp {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A server; a stream (RFC 6587).
    Tcp {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
}

impl fmt::Display for SyslogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Local(path) => return write!(f, "{}", path.display()),
            Self::Udp { host, port } => ("udp", host, port),
            Self::Tcp { host, port } => ("tcp", host, port),
        };
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

/// `[alerting.syslog]`
#[derive(Clone, Debug, PartialEq)]
pub struct Syslog {
    /// Facility of the messages.
    pub facility: SyslogFacility,
    /// Tag of the messages.
    pub tag: String,
    /// Form of the messages.
    pub format: SyslogFormat,
    /// Where they go.
    pub target: SyslogTarget,
    /// What is sent here.
    pub severities: Severities,
}

/// How a channel says who it is, in the header `Authorization`.
#[derive(Clone, Debug, PartialEq)]
pub enum Login {
    /// Not at all.
    None,
    /// With name and password (RFC 7617).
    Basic(Secret, Secret),
    /// With a token (RFC 6750).
    Bearer(Secret),
}

/// `[alerting.alertmanager]`
#[derive(Clone, Debug, PartialEq)]
pub struct Alertmanager {
    /// The members of the cluster, each without the path of its API; may carry credentials. At least one.
    pub urls: Vec<Secret>,
    /// What each of them is told about who speaks.
    pub login: Login,
    /// What is sent here.
    pub severities: Severities,
}

/// `[alerting.pagerduty]`
#[derive(Clone, Debug, PartialEq)]
pub struct Pagerduty {
    /// The integration's credential.
    pub routing_key: Secret,
    /// The Events API, as far as its `/v2`.
    pub api_url: Secret,
    /// What is sent here.
    pub severities: Severities,
}

/// `[alerting.opsgenie]`
#[derive(Clone, Debug, PartialEq)]
pub struct Opsgenie {
    /// The integration's credential.
    pub api_key: Secret,
    /// The API, as far as its `/v2`.
    pub api_url: Secret,
    /// Who is called, beyond those whom the integration names.
    pub responders: Vec<Responder>,
    /// Tags of all alerts.
    pub tags: Vec<String>,
    /// What is sent here.
    pub severities: Severities,
}

/// Somebody whom Opsgenie calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responder {
    /// `team`, `user`, `schedule` or `escalation`.
    pub kind: &'static str,
    /// The name; of a user, the mail address.
    pub name: String,
}

impl Responder {
    /// The kinds there are.
    pub const KINDS: [&str; 4] = ["team", "user", "schedule", "escalation"];
}

/// `[alerting.teams]`
#[derive(Clone, Debug, PartialEq)]
pub struct Teams {
    /// The workflow's trigger, or a connector; its path and query are credentials.
    pub webhook_url: Secret,
    /// What is sent here.
    pub severities: Severities,
}

/// `[alerting.ntfy]`
#[derive(Clone, Debug, PartialEq)]
pub struct Ntfy {
    /// Server and topic; who knows a topic may read it.
    pub url: Secret,
    /// What the server is told about who speaks.
    pub login: Login,
    /// What is sent here.
    pub severities: Severities,
}
