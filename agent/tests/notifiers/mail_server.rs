//! Mail against a real server: exim4 on loopback, with a private authority.

use std::net::TcpListener;
use std::time::Duration;

use sysops_agent::config::{Email, Secret, SmtpEncryption};
use sysops_agent::model::{Message, Place, Severity, Status};
use sysops_agent::notifiers::{Accepted, Channel, SendError};
use tempfile::TempDir;
use xtask::faults::poll;
use xtask::mail_server::MailServer;

use super::email::{bodies, example, headers, scripted, to};
use super::golden::{followed, huge};
use super::{alert, send, sender};

/// A private authority's certificate, and a certificate for 127.0.0.1 with its key that it signed, all in PEM.
pub fn authority() -> [String; 3] {
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    [pem, server.pem(), server_key.serialize_pem()]
}

/// exim4, an authority that nobody else knows, and the ports for STARTTLS and for TLS from the first byte.
struct Exim {
    server: MailServer,
    home: TempDir,
    ports: [u16; 2],
}

impl Exim {
    fn start(open: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(listeners);
        let [authority, certificate, key] = authority();
        std::fs::write(home.path().join("authority.pem"), authority).unwrap();
        let place = home.path().join("exim");
        std::fs::create_dir(&place).unwrap();
        let server = MailServer::start(&place, ports, &certificate, &key, open).unwrap();
        Self { server, home, ports }
    }

    fn email(&self, encryption: SmtpEncryption) -> Email {
        let port = if encryption == SmtpEncryption::Implicit { self.ports[1] } else { self.ports[0] };
        Email {
            smtp_port: port,
            encryption,
            username: Some("agent".into()),
            password: Some(Secret::new("hunter2".into())),
            to: vec!["ops@example.org".into()],
            ..example()
        }
    }

    fn channel(&self, email: Email) -> Channel {
        to(email, Some(self.home.path().join("authority.pem")))
    }

    /// All messages, once there are as many.
    fn messages(&self, count: usize) -> Vec<String> {
        poll("messages in the maildir", Duration::from_secs(20), || {
            let messages = self.server.messages();
            Ok((messages.len() >= count).then_some(messages))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.server.log()))
    }
}

async fn deliver(channel: &Channel, message: &Message) -> Result<Accepted, SendError> {
    channel.notifier.send(&channel.notifier.render(message, &sender())).await
}

#[tokio::test]
async fn a_real_server_takes_a_thread_over_starttls_and_a_login() {
    if MailServer::is_lacking() {
        return;
    }
    let exim = Exim::start(false);
    let channel = exim.channel(exim.email(SmtpEncryption::StartTls));
    let accepted = deliver(&channel, &Message::of(super::oom().into())).await.unwrap();
    assert!(accepted.answer.starts_with("250 OK id="), "{}", accepted.answer);
    let reference = accepted.reference.unwrap();
    let place = || Place::Answer(reference.clone());
    for (status, severity) in [(Status::Updated, Severity::Emergency), (Status::Resolved, Severity::Critical)] {
        let accepted = deliver(&channel, &followed(status, severity, Severity::Critical, place())).await.unwrap();
        assert_eq!(accepted.reference, None);
    }
    deliver(&channel, &Message::of(huge().into())).await.unwrap();

    let messages: Vec<_> = exim.messages(4).iter().map(|message| message.replace('\n', "\r\n")).collect();
    let of = |part: &str| messages.iter().find(|message| message.contains(part)).unwrap_or_else(|| panic!("no {part}"));
    let first = of("X-Sysops-Agent-Severity: critical\r\nX-Sysops-Agent-Status: firing");
    let head = headers(first).0;
    assert!(head["received"].contains("with esmtpsa") && head["received"].contains("TLS1.3"), "{}", head["received"]);
    assert_eq!(head["message-id"], reference.split(' ').next().unwrap());
    assert_eq!((&*head["x-sysops-agent-delivery"], &*head["importance"], &*head["x-priority"]), ("d-1", "high", "2 (High)"));
    let [text, html] = bodies(first);
    for body in [text, html] {
        assert!(body.contains("OOM killer chose java (pid 4242)") && body.contains("out_of_memory+0x1a5/0x5a0"), "{body}");
    }
    for (status, start) in [("updated", "Re: [EMERGENCY] [sysops-agent]"), ("resolved", "Re: [RESOLVED] [sysops-agent]")] {
        let answer = headers(of(&format!("X-Sysops-Agent-Status: {status}"))).0;
        assert_eq!((&answer["references"], &answer["in-reply-to"]), (&head["message-id"], &head["message-id"]));
        assert!(answer["subject"].starts_with(start), "{}", answer["subject"]);
    }
    let log = exim.server.log();
    assert_eq!(log.matches("A=plain:agent").count(), 4, "{log}");
}

#[tokio::test]
async fn a_real_server_refuses_a_wrong_password_and_who_has_none() {
    if MailServer::is_lacking() {
        return;
    }
    let exim = Exim::start(false);
    let wrong = Email { password: Some(Secret::new("letmein".into())), ..exim.email(SmtpEncryption::StartTls) };
    let error = send(&exim.channel(wrong), &alert(Severity::Critical)).await.unwrap_err();
    assert!(matches!(error, SendError::Permanent { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("answered AUTH with 535") && text.contains("check username and password in [alerting.email]"),
        "{text}"
    );
    assert!(!text.contains("letmein") && !text.contains("bGV0bWVpbg"), "{text}");

    let none = Email { username: None, password: None, ..exim.email(SmtpEncryption::Implicit) };
    let error = send(&exim.channel(none), &alert(Severity::Critical)).await.unwrap_err();
    assert!(matches!(&error, SendError::Permanent { reason } if reason.contains("authentication required")), "{error:?}");
    assert_eq!(exim.server.messages(), [""; 0]);
}

#[tokio::test]
async fn a_real_server_that_nobody_vouches_for_gets_nothing() {
    if MailServer::is_lacking() {
        return;
    }
    let exim = Exim::start(false);
    let stranger = exim.home.path().join("stranger.pem");
    let [pem, ..] = authority();
    std::fs::write(&stranger, pem).unwrap();
    for encryption in [SmtpEncryption::StartTls, SmtpEncryption::Implicit] {
        let error = send(&to(exim.email(encryption), Some(stranger.clone())), &alert(Severity::Critical)).await.unwrap_err();
        assert!(error.to_string().contains("no trusted TLS connection to 127.0.0.1:"), "{error}");
        assert!(matches!(error, SendError::Retry { .. }), "{error:?}");
    }
    let log = exim.server.log();
    assert!(!log.contains("A=plain") && exim.server.messages().is_empty(), "{log}");
}

/// In the child process of the test below: the port of the mail server.
const CHILD_PORT: &str = "SYSOPS_AGENT_TEST_SMTP_PORT";

/// The system's roots are read from where the environment says when the channel is made: so the test runs itself again, with the private
/// authority as the system's only one.
#[tokio::test]
async fn the_systems_roots_count_for_mail_too() {
    if let Ok(port) = std::env::var(CHILD_PORT) {
        let email = Email { smtp_port: port.parse().unwrap(), encryption: SmtpEncryption::StartTls, ..example() };
        println!("{:?}", send(&to(email, None), &alert(Severity::Critical)).await);
        return;
    }
    if MailServer::is_lacking() {
        return;
    }
    let exim = Exim::start(true);
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "mail_server::the_systems_roots_count_for_mail_too", "--nocapture"]);
    command.env(CHILD_PORT, exim.ports[0].to_string()).env_remove("SSL_CERT_DIR");
    command.env("SSL_CERT_FILE", exim.home.path().join("authority.pem"));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("Ok(Accepted"), "{output}");
    assert!(exim.messages(1)[0].contains("with esmtps "), "{}", exim.server.log());
}

#[tokio::test]
async fn a_real_server_takes_tls_from_the_first_byte_and_plain_text() {
    if MailServer::is_lacking() {
        return;
    }
    let exim = Exim::start(true);
    for encryption in [SmtpEncryption::Implicit, SmtpEncryption::None] {
        send(&exim.channel(exim.email(encryption)), &alert(Severity::Critical)).await.unwrap();
    }
    let none = Email { username: None, password: None, ..exim.email(SmtpEncryption::None) };
    send(&exim.channel(none), &alert(Severity::Critical)).await.unwrap();
    let mut ways: Vec<_> = exim
        .messages(3)
        .iter()
        .map(|message| message.split("with ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned())
        .collect();
    ways.sort();
    assert_eq!(ways, ["esmtp", "esmtpa", "esmtpsa"], "{}", exim.server.log());
}

#[tokio::test]
async fn a_real_server_may_refuse_some_recipients() {
    if MailServer::is_lacking() {
        return;
    }
    let exim = Exim::start(true);
    let with =
        |to: &[&str]| Email { to: to.iter().map(|to| format!("{to}@example.org")).collect(), ..exim.email(SmtpEncryption::None) };
    let some = send(&exim.channel(with(&["unknown", "ops", "busy"])), &alert(Severity::Critical)).await.unwrap();
    assert!(some.answer.contains("not for busy@example.org: 451 try again later"), "{}", some.answer);
    assert!(some.answer.contains("not for unknown@example.org: 550 no such user"), "{}", some.answer);
    let none = send(&exim.channel(with(&["unknown"])), &alert(Severity::Critical)).await.unwrap_err();
    let text = none.to_string();
    assert!(matches!(none, SendError::Permanent { .. }) && text.contains("check the addresses in alerting.email.to"), "{text}");
    let later = send(&exim.channel(with(&["unknown", "busy"])), &alert(Severity::Critical)).await.unwrap_err();
    assert!(matches!(later, SendError::Retry { .. }) && later.to_string().contains("451"), "{later}");
    assert_eq!(exim.messages(1).len(), 1);
}

#[tokio::test]
async fn addresses_beyond_ascii_go_where_the_server_takes_them() {
    let email = || Email { to: vec!["übersee@example.org".into()], ..example() };
    let (port, served) = scripted(&["220 x", "250-x\r\n250 8BITMIME"]).await;
    let error = send(&to(Email { smtp_port: port, ..email() }, None), &alert(Severity::Critical)).await.unwrap_err();
    assert!(matches!(&error, SendError::Permanent { reason } if reason.contains("SMTPUTF8")), "{error:?}");
    assert_eq!(served.await.unwrap(), "EHLO [127.0.0.1]\r\nQUIT\r\n");
    if MailServer::is_lacking() {
        return;
    }
    let exim = Exim::start(true);
    send(&to(Email { smtp_port: exim.ports[0], ..email() }, None), &alert(Severity::Critical)).await.unwrap();
    let message = &exim.messages(1)[0];
    assert!(message.contains("for übersee@example.org") && message.contains("with utf8esmtp"), "{message}");
}
