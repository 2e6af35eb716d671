//! Mail: its form by the documents, a real mail server, and servers that do what a real one seldom does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sysops_agent::config::{Config, Email, Secret, SmtpEncryption};
use sysops_agent::model::{Message, News, Place, Severities, Severity, Status};
use sysops_agent::notifiers::{Channel, Rendered, SendError};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::golden::{cases, compare, followed, grouped, hostile, huge, readable, render};
use super::mail_server::authority;
use super::{alert, channel, send, sender};

pub fn example() -> Email {
    Email {
        smtp_host: "127.0.0.1".into(),
        smtp_port: 25,
        encryption: SmtpEncryption::None,
        username: None,
        password: None,
        from: "sysops-agent <sysops-agent@example.org>".into(),
        to: vec!["ops@example.org".into(), "Übersee <sea@example.org>".into()],
        subject_prefix: "[sysops-agent]".into(),
        severities: Severities::from(Severity::Critical),
    }
}

pub fn to(email: Email, ca_file: Option<PathBuf>) -> Channel {
    let mut config = Config::default();
    config.alerting.email = Some(email);
    config.alerting.ca_file = ca_file;
    channel("email", &config).unwrap().unwrap()
}

/// Headers, unfolded and in lower case, of a message or a part; and what follows.
pub fn headers(text: &str) -> (BTreeMap<String, String>, &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut headers = BTreeMap::new();
    for line in head.replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
        assert!(
            headers.insert(name.to_lowercase(), value.to_owned()).is_none() || name == "Received",
            "{name} stands there twice"
        );
    }
    (headers, body)
}

/// The text and the HTML of a message, decoded (RFC 2045, section 6.7; RFC 2046, section 5.1).
pub fn bodies(message: &str) -> [String; 2] {
    let (head, body) = headers(message);
    let kind = &head["content-type"];
    let boundary = kind.strip_prefix("multipart/alternative; boundary=").unwrap_or_else(|| panic!("{kind}")).trim_matches('"');
    let parts: Vec<_> = body.trim_end().strip_suffix("--").unwrap().split(&format!("--{boundary}")).collect();
    assert_eq!((parts.len(), parts[0].trim(), parts[3].trim()), (4, "", ""));
    [("text/plain", parts[1]), ("text/html", parts[2])].map(|(kind, part)| {
        let (head, body) = headers(part.strip_prefix("\r\n").unwrap());
        assert_eq!(head["content-type"], format!("{kind}; charset=utf-8"));
        assert_eq!(head["content-transfer-encoding"], "quoted-printable");
        let mut bytes = Vec::new();
        let joined = body.replace("=\r\n", "");
        let mut rest = joined.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte == b'=' {
                let (digits, after) = rest.split_at(2);
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
                rest = after;
            } else {
                bytes.push(*byte);
            }
        }
        String::from_utf8(bytes).unwrap()
    })
}

/// What RFC 5322 (sections 2.1, 2.1.1, 2.2, 3.6), RFC 2045 (section 6.7) and RFC 2047 (section 2) ask of a message.
fn check(rendered: &Rendered) -> String {
    let text = std::str::from_utf8(&rendered.parts[0]).unwrap();
    assert!(text.is_ascii() && text.len() <= 256_000, "{} bytes", text.len());
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "a bare CR or LF");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "a line is too long");
    let (head, body) = headers(text);
    assert!(body.split("\r\n").all(|line| line.len() <= 76), "a line is too long for quoted-printable");
    assert!(head.keys().all(|name| name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')), "{head:?}");
    for required in ["from", "to", "date", "message-id", "subject", "mime-version"] {
        assert!(head.contains_key(required), "{required} is missing");
    }
    assert!(head.values().all(|value| value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())), "{head:?}");
    for word in text.split_whitespace().filter(|word| word.starts_with("=?")) {
        assert!(word.len() <= 75 + 1, "an encoded word is too long: {word}");
    }
    let id = &head["message-id"];
    let inner = id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap();
    let (left, right) = inner.split_once('@').unwrap();
    for atom in left.split('.').chain(right.split('.')) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
        assert!(!atom.is_empty() && atom.bytes().all(allowed), "{id}");
    }
    assert_eq!(head["auto-submitted"], "auto-generated");
    text.to_owned()
}

fn reference(rendered: &Rendered) -> String {
    String::from_utf8(rendered.parts[1].to_vec()).unwrap()
}

#[test]
fn every_message_is_as_the_documents_want_it() {
    let mut messages: Vec<Message> = cases().into_iter().map(|(_, message)| message).collect();
    messages.push(Message::of(huge().into()));
    let mut many = grouped();
    let kinds = [Arc::new(huge()), Arc::new(hostile())];
    many.news = (0..200).map(|number| News { alert: Arc::clone(&kinds[number % 2]), previous: None, superseded: 0 }).collect();
    messages.push(many);
    let mut delivery = Message::of(hostile().into());
    delivery.delivery = "d\r\nBcc: x@example.org\r\n\r\n<script>".repeat(20);
    messages.push(delivery);
    for message in messages {
        let rendered = render("email", &message);
        let text = check(&rendered);
        for body in bodies(&text) {
            assert!(!body.contains('\x1b') && !body.contains('\u{202e}'), "something acts on a terminal");
        }
        assert!(!bodies(&text)[1].contains("<script"), "markup came through");
    }
}

#[test]
fn hostile_text_stays_text_and_starts_no_header() {
    let mut message = Message::of(hostile().into());
    let mut config = Config::default();
    config.alerting.email = Some(Email { subject_prefix: "ä<b>".into(), ..example() });
    let channel = channel("email", &config).unwrap().unwrap();
    let mut sender = sender();
    sender.hostname = "web\r\nBcc: x@example.org".into();
    message.place = Place::Answer("<a@b>\r\nBcc: x@example.org warn 1 s".into());
    let text = check(&channel.notifier.render(&message, &sender));
    let (head, _) = headers(&text);
    assert!(!head.contains_key("bcc") && !head.contains_key("references"), "{head:?}");
    let [plain, html] = bodies(&text);
    assert!(plain.contains("<b>&amp;</b>") && html.contains("&lt;b&gt;&amp;amp;&lt;/b&gt;"), "{plain}\n{html}");
}

#[test]
fn what_follows_answers_the_first_message_and_says_what_changed() {
    let first = render("email", &Message::of(alert(Severity::Warn).into()));
    let reference = reference(&first);
    let id = headers(&check(&first)).0["message-id"].clone();
    assert_eq!(id, "<d-1.web-01@example.org>");
    assert_eq!(first.parts[0], render("email", &Message::of(alert(Severity::Warn).into())).parts[0], "not the same again");
    let subject = "[sysops-agent] WARN web-01: CPU usage 95.2% exceeds threshold 90%";
    let place = || Place::Answer(reference.clone());
    for (case, status, severity, before, expected) in [
        ("answer-updated", Status::Updated, Severity::Warn, Severity::Warn, format!("Re: {subject}")),
        ("answer-worse", Status::Updated, Severity::Critical, Severity::Warn, format!("Re: [CRITICAL] {subject}")),
        ("answer-resolved", Status::Resolved, Severity::Warn, Severity::Warn, format!("Re: [RESOLVED] {subject}")),
    ] {
        let answer = render("email", &followed(status, severity, before, place()));
        let head = headers(&check(&answer)).0;
        assert_eq!((&head["in-reply-to"], &head["references"], &head["subject"]), (&id, &id, &expected));
        assert_eq!(head["message-id"], "<d-2.web-01@example.org>");
        assert_eq!(answer.parts.len(), 1, "the thread goes by its first message");
        compare(&format!("email/{case}.txt"), &readable(&answer));
    }
    // Where the first told of several, the end of one is not the end of all.
    let group = render("email", &grouped());
    let one = followed(Status::Resolved, Severity::Warn, Severity::Warn, Place::Answer(self::reference(&group)));
    let subject = headers(&check(&render("email", &one))).0["subject"].clone();
    assert_eq!(subject, "Re: [1 RESOLVED] [sysops-agent] CRITICAL web-01: 45 alerts: 3 CRITICAL, 41 WARN, 1 over");
}

#[test]
fn a_template_words_both_bodies_and_nothing_in_it_becomes_markup() {
    let of = |template: &str, message: &Message| {
        let mut config = Config::default();
        config.alerting.email = Some(example());
        config.alerting.templates.by_channel.insert("email".into(), template.into());
        let channel = channel("email", &config).unwrap().unwrap();
        bodies(&check(&channel.notifier.render(message, &sender())))
    };
    let [text, html] = of("<b>{{ hostname }}</b> says<br>{{ message }}", &Message::of(hostile().into()));
    assert!(text.starts_with("WARN web-01\r\n\r\nweb-01 says\r\nline\\nbreak"), "{text}");
    assert!(text.contains("<b>&amp;</b> <@U1>") && !text.contains("<br>"), "{text}");
    assert!(html.contains("<b>web-01</b> says<br>line\\nbreak") && html.contains("&lt;b&gt;&amp;amp;&lt;/b&gt;"), "{html}");
    assert!(!html.contains("<script") && !html.contains("<table"), "{html}");
    let [text, _] = of("{{ message }}", &grouped());
    assert!(text.starts_with("45 alerts: 3 CRITICAL, 41 WARN, 1 over") && text.contains("held back by the rate limit"), "{text}");
    // One that makes more than fits is not used.
    let long = "ä".repeat(8000) + &"{{ message }}".repeat(30);
    let mut many = grouped();
    many.news = vec![many.news[0].clone(); 40];
    assert!(of(&long, &many)[1].contains("<table"));
}

/// A server of one connection that greets and answers each line by script, and tells what it was sent; when the script is done, it answers QUIT alone.
pub async fn scripted(script: &'static [&'static str]) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut seen = String::new();
        for reply in script {
            stream.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
            let from = seen.len();
            while !(reply.starts_with("354") && seen.ends_with("\r\n.\r\n")) {
                if stream.read_line(&mut seen).await.unwrap_or(0) == 0 || !reply.starts_with("354") && seen.len() > from {
                    break;
                }
            }
        }
        loop {
            if seen.ends_with("QUIT\r\n") {
                let _ = stream.write_all(b"221 bye\r\n").await;
            }
            if stream.read_line(&mut seen).await.unwrap_or(0) == 0 {
                return seen;
            }
        }
    });
    (port, served)
}

#[tokio::test]
async fn replies_decide_whether_a_message_is_sent_again() {
    const HELLO: &str = "250-x\r\n250 AUTH LOGIN";
    let cases: &[(&'static [&'static str], bool, &str)] = &[
        (&["421 too busy"], false, "answered the greeting with 421 too busy"),
        (&["554 go away"], true, "see whether alerting.email.smtp_host is a mail server for this host"),
        (&["220 x", HELLO, "334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "454 later"], false, "answered AUTH with 454 later"),
        (&["220 x", HELLO, "534 too weak"], true, "check username and password"),
        (&["220 x", "250 x"], true, "offers no login by AUTH PLAIN or LOGIN"),
        (&["220 x", HELLO, "235 ok", "452 full"], false, "answered MAIL with 452 full"),
        (&["220 x", HELLO, "235 ok", "530 log in"], true, "it wants a login"),
        (&["220 x", HELLO, "235 ok", "553 not yours"], true, "check alerting.email.from"),
        (&["220 x", HELLO, "235 ok", "250 ok", "450 gr\x1b[2Jey"], false, r"answered RCPT with 450 gr\u{1b}[2Jey"),
        (
            &["220 x", HELLO, "235 ok", "250 ok", "250 ok", "354 go", "451 scanner"],
            false,
            "answered the message with 451 scanner",
        ),
        (&["220 x", HELLO, "235 ok", "250 ok", "250 ok", "354 go", "552 too big"], true, "raise its limit"),
        (&["HTTP/1.1 400 Bad Request"], false, "no SMTP"),
        (&["220 x", HELLO, "235 ok", "250 ok", "250 ok", "354 go", "250 id 7"], false, "250 id 7"),
    ];
    for (script, is_permanent, expected) in cases {
        let (port, served) = scripted(script).await;
        let email = Email {
            smtp_port: port,
            username: Some("agent".into()),
            password: Some(Secret::new("hunter2".into())),
            to: vec!["ops@example.org".into()],
            ..example()
        };
        let (text, permanent) = match send(&to(email, None), &alert(Severity::Critical)).await {
            Ok(accepted) => (accepted.answer, false),
            Err(SendError::Retry { reason, after: None }) => (reason, false),
            Err(SendError::Permanent { reason }) => (reason, true),
            Err(error) => panic!("{error:?}"),
        };
        assert!(text.contains(expected) && permanent == *is_permanent, "{text} ({permanent})");
        assert!(!text.contains("hunter2"), "{text}");
        drop(served);
    }
}

#[tokio::test]
async fn a_server_without_starttls_is_told_nothing() {
    let (port, served) = scripted(&["220 x", "250-x\r\n250 AUTH PLAIN"]).await;
    let email = Email {
        smtp_port: port,
        encryption: SmtpEncryption::StartTls,
        username: Some("agent".into()),
        password: Some(Secret::new("hunter2".into())),
        ..example()
    };
    let [pem, ..] = authority();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("authority.pem");
    std::fs::write(&file, pem).unwrap();
    let error = send(&to(email, Some(file)), &alert(Severity::Critical)).await.unwrap_err();
    assert!(matches!(&error, SendError::Retry { reason, .. } if reason.contains("offers no STARTTLS")), "{error:?}");
    assert_eq!(served.await.unwrap(), "EHLO [127.0.0.1]\r\n");
}

/// Whoever sits between may put replies behind the one to STARTTLS, in plain text: they must not count as replies over TLS.
#[tokio::test]
async fn what_was_put_behind_the_reply_to_starttls_breaks_the_handshake() {
    let (port, served) = scripted(&["220 x", "250-x\r\n250 STARTTLS", "220 go\r\n250-x\r\n250 AUTH PLAIN\r\n235 ok"]).await;
    let email = Email { smtp_port: port, encryption: SmtpEncryption::StartTls, ..example() };
    let [pem, ..] = authority();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("authority.pem");
    std::fs::write(&file, pem).unwrap();
    let error = send(&to(email, Some(file)), &alert(Severity::Critical)).await.unwrap_err();
    assert!(matches!(&error, SendError::Retry { reason, .. } if reason.contains("no trusted TLS connection")), "{error:?}");
    drop(served);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up() {
    for script in [&[][..], &["220 x"], &["220 x", "250 x"], &["220 x", "250 x", "250 ok", "250 ok", "354 go"]] {
        let (port, served) = scripted(script).await;
        let start = tokio::time::Instant::now();
        let email = Email { smtp_port: port, to: vec!["ops@example.org".into()], ..example() };
        let error = send(&to(email, None), &alert(Severity::Critical)).await.unwrap_err();
        assert!(matches!(&error, SendError::Retry { reason, .. } if reason.contains("did not answer")), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(70), "{:?}", start.elapsed());
        drop(served);
    }
}
