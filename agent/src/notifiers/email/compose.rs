//! A message as RFC 5322 and MIME want it: headers, thread, the two bodies.
//!
//! The same message gives the same bytes, its Message-ID included, so that one that is sent twice can be told to be the same.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, MultiPartKind, SinglePart};

use super::super::card::{counts, sentence, title};
use super::super::text::clip;
use super::super::{Place, Sender};
use super::page;
use crate::model::{Alert, Message, Severity, Status};

/// Longest subject without what an answer puts before it, in bytes.
const SUBJECT_MAX: usize = 200;
/// Longest prefix of a subject, in bytes.
const PREFIX_MAX: usize = 60;
/// Longest delivery that is shown, in bytes.
const DELIVERY_MAX: usize = 400;
/// Longest of the two halves of a Message-ID before the `@`, in bytes: with the domain they are one word of at most 998
/// bytes (RFC 5322, section 2.1.1), which cannot be folded.
const ID_MAX: usize = 100;

/// A message that is ready.
pub(super) struct Mail {
    /// Headers and bodies, with CR LF.
    pub(super) message: Vec<u8>,
    /// What an answer to it has to know.
    pub(super) thread: Thread,
}

/// The first message of a thread: what its channel calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    /// Message-ID, with its angle brackets.
    id: String,
    /// Severity of its lead.
    severity: Severity,
    /// How many alerts it told of.
    count: u64,
    /// Its subject.
    subject: String,
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, severity, count, subject } = self;
        write!(f, "{id} {severity} {count} {subject}")
    }
}

impl FromStr for Thread {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(4, ' ');
        let mut word = || words.next().ok_or(());
        let (id, severity, count, subject) = (word()?, word()?, word()?, word()?);
        let is_id = id.starts_with('<') && id.ends_with('>') && id.bytes().all(|byte| byte.is_ascii_graphic());
        Ok(Self {
            id: is_id.then(|| id.to_owned()).ok_or(())?,
            severity: Severity::ALL.into_iter().find(|known| known.as_str() == severity).ok_or(())?,
            count: count.parse().map_err(|_| ())?,
            subject: subject.to_owned(),
        })
    }
}

/// Puts a message together, with the HTML of a template as its text where there is one; `None` where it has no alert or a mailbox has no
/// form that a header can have.
pub(super) fn compose(
    message: &Message,
    sender: &Sender,
    from: &Mailbox,
    to: &[Mailbox],
    prefix: &str,
    templated: Option<&str>,
) -> Option<Mail> {
    let lead = message.lead()?;
    let thread = Thread {
        id: message_id(&message.delivery, &sender.hostname, from.email.domain()),
        severity: lead.severity,
        count: message.count(),
        subject: own_subject(message, lead, sender, prefix),
    };
    let first = match &message.place {
        Place::New => None,
        Place::Replace(reference) | Place::Answer(reference) => reference.parse::<Thread>().ok(),
    };
    let subject = match (&message.place, &first) {
        (Place::New, _) => thread.subject.clone(),
        (_, Some(first)) => format!("Re: {}{}", news(message, lead, first), first.subject),
        (_, None) => format!("Re: {}", thread.subject),
    };
    let (importance, priority) = importance(lead);
    let mut mail = lettre::Message::builder()
        .from(from.clone())
        .subject(subject.clone())
        .date(date(message))
        .message_id(Some(thread.id.clone()))
        .user_agent(concat!("sysops-agent/", env!("CARGO_PKG_VERSION")).into());
    for mailbox in to {
        mail = mail.to(mailbox.clone());
    }
    if let Some(first) = first {
        mail = mail.in_reply_to(first.id.clone()).references(first.id);
    }
    for (name, value) in [
        // No answer by machines: RFC 3834, section 5; the second is Exchange's.
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("Importance", importance),
        ("X-Priority", priority),
        ("X-Sysops-Agent-Delivery", &clip(&message.delivery, DELIVERY_MAX)),
        ("X-Sysops-Agent-Severity", lead.severity.as_str()),
        ("X-Sysops-Agent-Status", lead.status.as_str()),
    ] {
        mail = mail.raw_header(HeaderValue::new(HeaderName::new_from_ascii(name.into()).ok()?, value.into()));
    }
    let page = page::page(message, sender, &subject, templated);
    let part = |kind, body| SinglePart::builder().header(kind).header(ContentTransferEncoding::QuotedPrintable).body(body);
    let bodies = MultiPart::builder()
        .kind(MultiPartKind::Alternative)
        // `=_` stands in no quoted-printable text (RFC 2045, section 6.7).
        .boundary("=_sysops-agent_=")
        .singlepart(part(ContentType::TEXT_PLAIN, page.text))
        .singlepart(part(ContentType::TEXT_HTML, page.html));
    Some(Mail { message: mail.multipart(bodies).ok()?.formatted(), thread })
}

/// The subject of a message that is no answer: `[sysops-agent] CRITICAL web-01: CPU usage 95.2% exceeds threshold 90%`.
fn own_subject(message: &Message, lead: &Alert, sender: &Sender, prefix: &str) -> String {
    let what = if message.is_group() { counts(message) } else { sentence(lead) };
    let prefix = clip(prefix.trim(), PREFIX_MAX);
    let subject = format!("{prefix} {}: {what}", title(lead, sender));
    clip(subject.trim_start(), SUBJECT_MAX).into_owned()
}

/// What an answer says in its subject, in brackets: they belong to no subject's base (RFC 5256, section 2.1), by which programs put messages
/// into threads.
fn news(message: &Message, lead: &Alert, first: &Thread) -> String {
    let is_over = message.tallies.is_empty() && message.alerts().all(|alert| alert.status == Status::Resolved);
    match (is_over, first.count) {
        (true, ..=1) => "[RESOLVED] ".into(),
        // Of several that the subject counts; the others may go on.
        (true, _) => format!("[{} RESOLVED] ", message.count()),
        (false, _) if lead.severity != first.severity => format!("[{}] ", lead.severity.as_str().to_uppercase()),
        (false, _) => String::new(),
    }
}

/// `Importance` (RFC 4021, section 2.1.42) and `X-Priority`.
fn importance(lead: &Alert) -> (&'static str, &'static str) {
    match (lead.status, lead.severity) {
        (Status::Resolved, _) | (_, Severity::Warn) => ("normal", "3 (Normal)"),
        (_, Severity::Info) => ("low", "5 (Lowest)"),
        (_, Severity::Critical) => ("high", "2 (High)"),
        (_, Severity::Emergency) => ("high", "1 (Highest)"),
    }
}

/// The time of the latest news.
fn date(message: &Message) -> SystemTime {
    let latest = message.news.iter().map(|news| news.alert.at.as_nanos()).max().unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(latest).unwrap_or(0))
}

/// A Message-ID that only this delivery of this host has.
fn message_id(delivery: &str, hostname: &str, domain: &str) -> String {
    let domain = if domain.starts_with('[') && domain.is_ascii() { domain.to_owned() } else { atoms(domain) };
    format!("<{}.{}@{domain}>", atoms(delivery), atoms(hostname))
}

/// The text as a dot-atom (RFC 5322, section 3.2.3): bytes that it can't hold in hexadecimal; what is too long by its beginning and a
/// digest.
fn atoms(text: &str) -> String {
    let mut atoms = String::new();
    for byte in text.bytes() {
        match byte {
            b'.' if !atoms.is_empty() && !atoms.ends_with('.') => atoms.push('.'),
            b'-' | b'_' | b'+' => atoms.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => atoms.push(char::from(byte)),
            _ => atoms.push_str(&format!("={byte:02X}")),
        }
        if atoms.len() > ID_MAX {
            // FNV-1a, for it has to be the same in every version of this program.
            let digest = text
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            return format!("{}={digest:016X}", atoms.get(..ID_MAX - 17).unwrap_or_default().trim_end_matches('.'));
        }
    }
    match atoms.trim_end_matches('.') {
        "" => "=".into(),
        atoms => atoms.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_reads_back() {
        let thread = Thread { id: "<a@b>".into(), severity: Severity::Warn, count: 3, subject: "[p] WARN h: a  b ä".into() };
        assert_eq!(thread.to_string().parse(), Ok(thread));
        for other in ["", "1", "<a@b>", "<a@b> warn 1", "<a@b> loud 1 s", "<a@b> warn one s", "<a\nb> warn 1 s", "a@b warn 1 s"] {
            assert_eq!(other.parse::<Thread>(), Err(()), "{other}");
        }
    }

    #[test]
    fn a_message_id_is_valid_whatever_it_is_made_of() {
        assert_eq!(message_id("d-1+2", "web-01.example.org", "example.org"), "<d-1+2.web-01.example.org@example.org>");
        assert_eq!(message_id("..a..b.", ".", "[192.0.2.1]"), "<=2E.a.=2Eb.=2E@[192.0.2.1]>");
        assert_eq!(message_id("", "\r\n", "ä.example"), "<=.=0D=0A@=C3=A4.example>");
        let long = |last| message_id(&format!("{}{last}", "d".repeat(1000)), &"h.".repeat(1000), "example.org");
        assert!(long('a') != long('b') && long('a').len() < 250, "{}", long('a'));
        assert!(!long('a').contains(".."));
    }
}
