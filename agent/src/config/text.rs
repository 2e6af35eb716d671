//! What the strings of a configuration must be like.
//!
//! Each check gives what the string means, or how a sentence that begins with the string goes on. As the string may be a
//! secret or come from the environment, no error may quote it.

use std::net::SocketAddr;
use std::path::PathBuf;

use regex::{RegexBuilder, RegexSet, RegexSetBuilder};
use url::Url;

use super::{Pattern, Responder, SyslogTarget};
use crate::model::zone;

/// Most memory that one compiled pattern may take, in bytes.
const MAX_PATTERN: usize = 2 << 20;
/// Most memory that one compiled pattern for lines of logs may take, and all of them together.
const MAX_LOG_PATTERN: usize = 256 << 10;
const MAX_LOG_PATTERNS: usize = 2 << 20;
/// Deepest nesting of a pattern.
const MAX_NESTING: u32 = 64;
/// Most named groups of a pattern for lines of logs.
const MAX_GROUPS: usize = 8;

/// What [`pattern`] takes.
pub(super) const PATTERN: &str = "a regular expression as in https://docs.rs/regex";
/// What [`web_address`] takes.
pub(super) const WEB_ADDRESS: &str = "an http:// or https:// URL";
/// What [`mailbox`] takes.
pub(super) const MAILBOX: &str = "an address such as \"ops@example.org\" or \"Ops <ops@example.org>\"";

/// What [`syslog_address`] takes.
pub(super) const SYSLOG_ADDRESS: &str = "\"udp://host:port\" or \"tcp://host:port\"";

/// Text on one line that says something.
pub(super) fn line(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty".into());
    }
    line_or_empty(text)
}

/// Text on one line.
pub(super) fn line_or_empty(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("holds a control character".into());
    }
    Ok(text.into())
}

/// Text without blanks and control characters.
pub(super) fn word(text: &str) -> Result<String, String> {
    let word = line(text)?;
    if text.contains(char::is_whitespace) {
        return Err("holds a blank".into());
    }
    Ok(word)
}

/// A path as the kernel takes it.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.contains('\0') {
        return Err("holds a zero byte".into());
    }
    Ok(text.into())
}

/// An IP address with a port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no IP address with a port".into())
}

/// A URL of the web, with a host.
pub(super) fn web_address(text: &str) -> Result<String, String> {
    // The parser would silently cut blanks at the ends and control characters anywhere.
    word(text)?;
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("is not an http or https URL".into());
    }
    Ok(text.into())
}

/// The path part of a URL.
pub(super) fn url_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("does not start with \"/\"".into());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['?', '#']) {
        return Err("holds a character that a path can't have".into());
    }
    Ok(text.into())
}

/// A regular expression. Compiling takes a bounded time and memory.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    compiled(text, MAX_PATTERN)
}

/// A regular expression that has to match the whole of a value.
pub(super) fn whole_pattern(text: &str) -> Result<Pattern, String> {
    // By itself first: a parenthesis too many must not close the group.
    pattern(text)?;
    pattern(&format!("^(?:{text})$"))
}

/// A regular expression for lines of logs: what it costs at most for a line is bounded by its size, so that is smaller. Its named
/// groups become labels.
pub(super) fn log_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = compiled(text, MAX_LOG_PATTERN)?;
    let names: Vec<&str> = pattern.0.capture_names().flatten().collect();
    if names.len() > MAX_GROUPS {
        return Err(format!("has {} named groups, and at most {MAX_GROUPS} can become labels", names.len()));
    }
    if names.contains(&"pattern") {
        return Err("has a group named \"pattern\", which is the label of the pattern's own name".into());
    }
    if names.iter().any(|name| !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')) {
        return Err("has a group whose name cannot be a label's, which has letters, digits and \"_\"".into());
    }
    Ok(pattern)
}

/// All patterns for lines of logs, as one set.
///
/// # Errors
/// How a sentence goes on that begins with them: they are too large together.
pub(super) fn log_patterns<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> Result<RegexSet, String> {
    RegexSetBuilder::new(patterns.map(|pattern| pattern.0.as_str()))
        .size_limit(MAX_LOG_PATTERNS)
        .dfa_size_limit(MAX_LOG_PATTERNS)
        .nest_limit(MAX_NESTING)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => {
                format!("take more than {} together when compiled", format_args!("{} MiB", limit >> 20))
            }
            error => format!("cannot be compiled together ({error})"),
        })
}

fn compiled(text: &str, limit: usize) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("is empty and would match everything".into());
    }
    RegexBuilder::new(text).size_limit(limit).nest_limit(MAX_NESTING).build().map(Pattern).map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) if limit < 1 << 20 => format!("takes more than {} KiB when compiled", limit >> 10),
        regex::Error::CompiledTooBig(limit) => format!("takes more than {} MiB when compiled", limit >> 20),
        // A drawing of the pattern with the fault marked, and the reason in its last line.
        error => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            format!("is not a regular expression ({})", reason.strip_prefix("error: ").unwrap_or(reason))
        }
    })
}

/// A name of the IANA time zone database.
pub(super) fn time_zone(text: &str) -> Result<String, String> {
    zone(text).map(|_| text.into())
}

/// A name or address of a host, without port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let host = word(text)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    if bare.parse::<std::net::IpAddr>().is_err() && !bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err("is no host name".into());
    }
    Ok(bare.into())
}

/// A syslog server.
pub(super) fn syslog_address(text: &str) -> Result<SyslogTarget, String> {
    let (scheme, server) = text.split_once("://").ok_or("does not start with \"udp://\" or \"tcp://\"")?;
    let (name, port) = server.rsplit_once(':').ok_or("has no port")?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or("has no port from 1 to 65535 at its end")?;
    if name.is_empty() || name.contains(':') && !name.starts_with('[') {
        return Err("has no host, or an IPv6 address without \"[\" and \"]\"".into());
    }
    let host = host(name)?;
    match scheme {
        "udp" => Ok(SyslogTarget::Udp { host, port }),
        "tcp" => Ok(SyslogTarget::Tcp { host, port }),
        _ => Err("does not start with \"udp://\" or \"tcp://\"".into()),
    }
}

/// A mailbox (RFC 5322, section 3.4), as far as it is common: `local@domain` or `Name <local@domain>`.
pub(super) fn mailbox(text: &str) -> Result<String, String> {
    let mailbox = line(text)?;
    let address = match text.trim().strip_suffix('>') {
        Some(text) => text.rsplit_once('<').map_or("", |(_, address)| address),
        None => text.trim(),
    };
    match address.rsplit_once('@') {
        Some((local, domain))
            if !local.is_empty()
                && !domain.is_empty()
                && !address.contains(|c: char| c.is_whitespace() || "<>,;".contains(c)) =>
        {
            Ok(mailbox)
        }
        _ => Err("is no mail address".into()),
    }
}

/// `#rrggbb`
pub(super) fn colour(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(|| "is no colour".into())
}

/// Whether it is a token, as the names of header fields and methods are (RFC 9110, section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The value of a header field (RFC 9110, section 5.5), in ASCII.
pub(super) fn header_value(text: &str) -> Result<String, String> {
    if !text.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic()) {
        return Err("holds a character that a header can't have".into());
    }
    Ok(text.into())
}

/// The name of a request's method (RFC 9110, section 9.1) that a body has a meaning with.
pub(super) fn method(text: &str) -> Result<String, String> {
    // `GET`, `HEAD` and `DELETE` give a body no meaning (sections 9.3.1, 9.3.2 and 9.3.5), the others have none.
    const BODILESS: [&str; 5] = ["GET", "HEAD", "DELETE", "CONNECT", "TRACE"];
    const USUAL: [&str; 4] = ["POST", "PUT", "PATCH", "OPTIONS"];
    if !is_token(text) {
        return Err("is no method's name".into());
    }
    let capitals = text.to_ascii_uppercase();
    if BODILESS.contains(&&*capitals) {
        return Err("is a method whose requests have no body".into());
    }
    if USUAL.contains(&&*capitals) && capitals != text {
        return Err("is not in capitals, as the names of methods are".into());
    }
    Ok(text.into())
}

/// A key for HMAC: long enough not to be guessed from one signature.
pub(super) fn hmac_secret(text: &str) -> Result<String, String> {
    if !(16..=1024).contains(&text.chars().count()) {
        return Err("does not have 16 to 1024 characters".into());
    }
    line(text)
}

/// The user's name of the scheme Basic (RFC 7617, section 2), which a colon would end.
pub(super) fn login_name(text: &str) -> Result<String, String> {
    if text.contains(':') {
        return Err("holds a colon".into());
    }
    line(text)
}

/// A token or key that becomes part of a header.
pub(super) fn token(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is empty or holds a character that a token can't have".into());
    }
    Ok(text.into())
}

/// An integration key of PagerDuty.
pub(super) fn routing_key(text: &str) -> Result<String, String> {
    if text.len() == 32 { letter_id(text) } else { Err("does not have 32 characters".into()) }
}

/// Somebody whom Opsgenie calls: kind and name.
pub(super) fn responder(text: &str) -> Result<Responder, String> {
    let found =
        text.split_once(':').and_then(|(kind, name)| Some((Responder::KINDS.into_iter().find(|known| *known == kind)?, name)));
    match found {
        Some((kind, name)) if !name.trim().is_empty() => Ok(Responder { kind, name: line(name)? }),
        _ => Err("names nobody".into()),
    }
}

/// A tag of Opsgenie, whose own pages separate them by commas.
pub(super) fn tag(text: &str) -> Result<String, String> {
    let tag = line(text)?;
    if tag.chars().count() > 50 || tag.contains(',') { Err("is too long or holds a comma".into()) } else { Ok(tag) }
}

/// A URL of the web whose path ends in a topic of ntfy.
pub(super) fn topic_address(text: &str) -> Result<String, String> {
    let address = web_address(text)?;
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    let topic = url.path().rsplit('/').next().unwrap_or_default();
    if topic.len() > 64 || !is_id(topic, |b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err("does not end in a topic: up to 64 letters, digits, \"-\" and \"_\"".into());
    }
    Ok(address)
}

/// A bot's token, which becomes part of a URL's path.
pub(super) fn bot_token(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((id, key))
            if !id.is_empty()
                && !key.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte)) =>
        {
            Ok(text.into())
        }
        _ => Err("is no bot token".into()),
    }
}

/// A token of Slack, which becomes part of a header.
pub(super) fn slack_token(text: &str) -> Result<String, String> {
    if text.starts_with("xox") && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err("is no token".into())
}

/// A chat's number, negative for groups, or the `@name` of a channel.
pub(super) fn chat_id(text: &str) -> Result<String, String> {
    let number = text.strip_prefix('-').unwrap_or(text);
    let named = text.strip_prefix('@').is_some_and(|name| is_id(name, |b| b.is_ascii_alphanumeric() || b == b'_'));
    if named || is_id(number, |b| b.is_ascii_digit()) { Ok(text.into()) } else { Err("is no chat id".into()) }
}

/// A numeric id.
pub(super) fn number_id(text: &str) -> Result<String, String> {
    if is_id(text, |b| b.is_ascii_digit()) { Ok(text.into()) } else { Err("is no id".into()) }
}

/// A name that Discord lets a webhook have (its documentation, "Webhook Resource", section "Create Webhook").
pub(super) fn discord_name(text: &str) -> Result<String, String> {
    let name = line(text)?;
    let lower = name.to_lowercase();
    if name.chars().count() > 80 {
        return Err("is too long".into());
    }
    if ["discord", "clyde", "```"].iter().any(|part| lower.contains(part)) || ["everyone", "here"].contains(&lower.trim()) {
        return Err("is a name that Discord refuses".into());
    }
    Ok(name)
}

/// An id of letters and digits.
pub(super) fn letter_id(text: &str) -> Result<String, String> {
    if is_id(text, |b| b.is_ascii_alphanumeric()) { Ok(text.into()) } else { Err("is no id".into()) }
}

fn is_id(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(allowed)
}

/// The tag of a syslog message: an APP-NAME (RFC 5424, section 6.2.5) that also RFC 3164 can carry.
pub(super) fn syslog_tag(text: &str) -> Result<String, String> {
    let fits = (1..=48).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':' && b != b'[');
    if fits { Ok(text.into()) } else { Err("is no tag".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: std::fmt::Debug>(check: impl Fn(&str) -> Result<T, String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(check(text).is_ok(), "{text:?} is refused");
        }
        for text in bad {
            let reason = check(text).expect_err(text);
            // Shorter ones may occur in any sentence.
            assert!(text.len() < 5 || !reason.contains(text), "{text:?} is quoted: {reason}");
        }
    }

    #[test]
    fn web_addresses() {
        check(
            web_address,
            &["http://localhost", "https://[::1]:8443/a?b=c", "https://user:pw@example.org/x"],
            &[
                "",
                "example.org",
                "ftp://example.org",
                "http://",
                "https://:80/",
                "http://a b",
                " http://a",
                "http://a\n",
                "/x",
                "http://a:99999",
            ],
        );
    }

    #[test]
    fn patterns() {
        check(
            pattern,
            &["a+", "(?i)error|fail", "^x$", r"(?P<device>sd\w)"],
            &["", "(", "a{1000}{1000}", "[z-a]", "*a", "(?x)\n(\n"],
        );
        assert_eq!(pattern("x(").unwrap_err(), "is not a regular expression (unclosed group)");
        assert_eq!(pattern(r"\w{1000}").unwrap_err(), "takes more than 2 MiB when compiled");
        assert!(pattern(&"(".repeat(100_000)).is_err());
    }

    #[test]
    fn log_patterns_are_small_and_have_few_groups() {
        check(
            log_pattern,
            &["error", r"link is down on (?P<port>\S+)", r"(?i)failed (?<a_1>\w+) .* (?<b>\d+)"],
            &[
                "(",
                r"\w{100}",
                "(?P<pattern>x)",
                "(?P<a.b>x)",
                "(?P<a>1)(?P<b>2)(?P<c>3)(?P<d>4)(?P<e>5)(?P<f>6)(?P<g>7)(?P<h>8)(?P<i>9)",
            ],
        );
        assert_eq!(log_pattern(r"\w{100}").unwrap_err(), "takes more than 256 KiB when compiled");
        let many = vec![log_pattern(r"(?:\w+ ){5}x").unwrap(); 256];
        assert_eq!(log_patterns(many.iter()).unwrap_err(), "take more than 2 MiB together when compiled");
        assert!(log_patterns(many.iter().take(8)).is_ok());
    }

    #[test]
    fn mailboxes() {
        check(
            mailbox,
            &["ops@example.org", "Ops Team <ops@example.org>", "root@localhost"],
            &["", "ops", "@example.org", "ops@", "a@b, c@d", "Ops <ops>", "a b@c", "a@b\nBcc: c@d", "<a@b"],
        );
    }

    #[test]
    fn hosts() {
        check(host, &["localhost", "mail.example.org", "10.0.0.1", "::1", "[::1]"], &["", "http://x", "a b", "a:25", "a@b"]);
    }

    #[test]
    fn ids() {
        check(chat_id, &["-1001234", "42", "@ops_alerts"], &["", "-", "@", "ops", "1-2"]);
        check(bot_token, &["123:abc_DEF-1"], &["", "123", ":", "1:a/b", "1:a b"]);
        check(slack_token, &["xoxb-1-2-a"], &["", "hunter", "xoxb-1 2", "xoxb-ä"]);
        check(letter_id, &["U012AB"], &["", "<@U012AB>"]);
        check(discord_name, &["sysops-agent", "Ünïcode 1"], &["", "my Discord", "Clyde 2", "here", &"x".repeat(81)]);
        check(number_id, &["123456789012345678"], &["", "<@&1>", "-1"]);
    }

    #[test]
    fn other_texts() {
        check(colour, &["#ff8800", "#FF8800"], &["", "ff8800", "#ff880", "#gg8800", "#ff88001", "#+f8800"]);
        check(url_path, &["/metrics", "/"], &["", "metrics", "/a b", "/a?b", "/ä"]);
        check(socket_address, &["127.0.0.1:9100", "[::]:0"], &["", "9100", ":9100", "localhost:9100", "1.2.3.4:99999"]);
        check(syslog_tag, &["sysops-agent"], &["", "a b", "a[1]", "a:"]);
        check(header_value, &["Bearer x", ""], &["a\r\nb", "ä"]);
        check(
            method,
            &["POST", "PUT", "PATCH", "OPTIONS", "REPORT", "x-Notify"],
            &["", "GET", "get", "DELETE", "TRACE", "post", "P T"],
        );
        check(responder, &["team:ops", "user:a@b.org", "schedule:night: shift"], &["", "ops", "team:", "group:ops", "team:a\n"]);
        check(tag, &["os:linux"], &["", "a,b", "012345678901234567890123456789012345678901234567890"]);
        check(topic_address, &["https://ntfy.sh/a_b-1"], &["", "https://ntfy.sh", "https://ntfy.sh/a/", "https://ntfy.sh/a.b"]);
        check(login_name, &["ops"], &["", "ops:x", "o\n"]);
        check(token, &["tk_0-9.~+/=:"], &["", "a b", "a\n", "ä"]);
        check(hmac_secret, &["0123456789abcdef"], &["", "0123456789abcde", "0123456789abcdef\n"]);
        check(path, &["/var/lib", "x"], &["", "a\0b"]);
    }
}
