//! The webhook against a real HTTP server, with and without TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sysops_agent::config::{Config, Secret, Webhook};
use sysops_agent::model::{Severities, Severity};
use sysops_agent::notifiers::{BuildError, Channel, SendError};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::receiver::{Answer, Receiver};
use super::{alert, channel, send};

pub fn configured(change: impl FnOnce(&mut Webhook)) -> Webhook {
    let mut webhook = Webhook {
        url: Secret::new(String::new()),
        method: "POST".into(),
        headers: [].into(),
        hmac_secret: None,
        timeout: Duration::from_secs(10),
        retry_count: 3,
        retry_delay: Duration::from_secs(5),
        severities: Severities::from(Severity::Warn),
    };
    change(&mut webhook);
    webhook
}

fn build(change: impl FnOnce(&mut Webhook)) -> Result<Channel, BuildError> {
    let mut config = Config::default();
    config.alerting.webhook = Some(configured(change));
    channel("webhook", &config).map(Option::unwrap)
}

pub fn to(url: &str) -> Channel {
    build(|webhook| webhook.url = Secret::new(url.into())).unwrap()
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/alerts?from=web-01")
}

#[tokio::test]
async fn a_message_arrives_as_it_is_specified() {
    let mut receiver = Receiver::start([], None).await;
    let channel = build(|webhook| {
        webhook.url = Secret::new(url(receiver.address));
        webhook.method = "PUT".into();
        webhook.headers.insert("X-Token".into(), Secret::new("hunter2".into()));
    })
    .unwrap();
    assert_eq!(
        (channel.severities, channel.retry.count, channel.retry.delay),
        (Severities::from(Severity::Warn), 3, Duration::from_secs(5))
    );
    send(&channel, &alert(Severity::Critical)).await.unwrap();

    let request = receiver.next().await;
    assert_eq!((request.method.as_str(), request.target.as_str()), ("PUT", "/alerts?from=web-01"));
    let header = |name| request.headers.get(name).unwrap().to_str().unwrap();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("idempotency-key"), "d-1");
    assert_eq!(header("user-agent"), concat!("sysops-agent/", env!("CARGO_PKG_VERSION")));
    assert_eq!(header("x-token"), "hunter2");
    assert_eq!(
        std::str::from_utf8(&request.body).unwrap(),
        r#"{"id":"i-1","delivery":"d-1","hostname":"web-01","timestamp":"2026-02-22T16:30:00.250+09:00","status":"firing","#
            .to_owned()
            + r#""severity":"critical","metric":"cpu_usage_percent","value":95.2,"threshold":90.0,"#
            + r#""message":"CPU usage 95.2% exceeds threshold 90%","labels":{"core":"all"},"duration_secs":330,"evidence":{}}"#
    );
}

/// What a receiver does that only has Python: the text of the documentation.
const VERIFIER: &str = r#"
import hashlib, hmac, sys, time
secret, timestamp, signature, now = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
body = sys.stdin.buffer.read()
expected = "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
sys.exit(0 if hmac.compare_digest(expected, signature) and abs(now - int(timestamp)) < 300 else 1)
"#;

#[tokio::test]
async fn signed_messages_verify_with_another_implementation() {
    const SECRET: &str = "correct horse battery staple";
    if xtask::faults::needs_program("python3", "python3") {
        return;
    }
    let mut receiver = Receiver::start([Answer::status(503)], None).await;
    let channel = build(|webhook| {
        webhook.url = Secret::new(url(receiver.address));
        webhook.hmac_secret = Some(Secret::new(SECRET.into()));
    })
    .unwrap();
    let _ = send(&channel, &super::oom()).await;
    send(&channel, &super::oom()).await.unwrap();
    for _ in 0..2 {
        let request = receiver.next().await;
        let header = |name| request.headers.get(name).unwrap().to_str().unwrap().to_owned();
        let (timestamp, signature) = (header("x-sysops-timestamp"), header("x-sysops-signature"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(timestamp.parse::<u64>().unwrap().abs_diff(now) < 60, "{timestamp}, and it is {now}");
        let mut tampered = request.body.to_vec();
        *tampered.last_mut().unwrap() ^= 1;
        let verdicts = [
            verify(SECRET, &timestamp, &signature, now, &request.body),
            verify(SECRET, &timestamp, &signature, now, &tampered),
            verify("correct horse battery stable", &timestamp, &signature, now, &request.body),
            verify(SECRET, &timestamp, &signature, now + 600, &request.body),
        ];
        assert_eq!(verdicts, [true, false, false, false]);
    }
}

/// What the verifier says.
fn verify(secret: &str, timestamp: &str, signature: &str, now: u64, body: &[u8]) -> bool {
    use std::io::Write as _;
    let mut python = std::process::Command::new("python3");
    python.args(["-c", VERIFIER, secret, timestamp, signature, &now.to_string()]).stdin(std::process::Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(body).unwrap();
    python.wait().unwrap().success()
}

#[tokio::test]
async fn messages_share_a_connection_whatever_the_answers_were() {
    let mut receiver = Receiver::start([Answer::status(200), Answer::status(503), Answer::status(404)], None).await;
    let channel = to(&url(receiver.address));
    for _ in 0..4 {
        let _ = send(&channel, &alert(Severity::Warn)).await;
        assert_eq!(receiver.next().await.connection, 0);
    }
}

#[tokio::test]
async fn answers_decide_whether_a_message_is_sent_again() {
    let mut elsewhere = Receiver::start([], None).await;
    let secs = |secs| Some(Duration::from_secs(secs));
    let cases = [
        (Answer::status(500), Ok(None), "500 Internal Server Error"),
        (Answer::header(503, "Retry-After", "7"), Ok(secs(7)), "503 Service Unavailable"),
        (Answer::header(503, "Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"), Ok(secs(0)), "503 Service Unavailable"),
        (Answer::header(429, "Retry-After", "120"), Ok(secs(120)), "429 Too Many Requests"),
        (Answer::header(429, "Retry-After", "soon"), Ok(None), "429 Too Many Requests"),
        (Answer::status(408), Ok(None), "408 Request Timeout"),
        (Answer::header(302, "Location", &url(elsewhere.address)), Err(()), "put the final address into alerting.webhook.url"),
        (Answer::header(307, "Location", &url(elsewhere.address)), Err(()), "put the final address into alerting.webhook.url"),
        (Answer::status(401), Err(()), "check the credentials"),
        (Answer::status(404), Err(()), "check the path of alerting.webhook.url"),
        (Answer::status(405), Err(()), "check alerting.webhook.method"),
        (Answer::status(400), Err(()), "see in the receiver's log"),
        (Answer::Close, Ok(None), "cannot reach http://127.0.0.1:"),
    ];
    let receiver = Receiver::start(cases.iter().map(|(answer, ..)| answer.clone()), None).await;
    let channel = to(&url(receiver.address));
    for (_, expected, text) in cases {
        let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error} lacks {text:?}");
        match (error, expected) {
            (SendError::Retry { after, .. }, Ok(expected)) => assert_eq!(after, expected, "{text}"),
            (SendError::Permanent { .. }, Err(())) => {}
            (error, expected) => panic!("{error:?} instead of {expected:?}"),
        }
    }
    assert!(elsewhere.was_left_alone(), "a redirect was followed");
}

#[tokio::test]
async fn a_receiver_that_hangs_is_given_up() {
    let receiver = Receiver::start([Answer::Hang], None).await;
    let channel = build(|webhook| {
        webhook.url = Secret::new(url(receiver.address));
        webhook.timeout = Duration::from_millis(200);
    })
    .unwrap();
    let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }), "{error:?}");
    assert!(error.to_string().ends_with("did not answer within 0.2 s; see whether it is up"));
}

#[tokio::test]
async fn nobody_listening_is_no_final_verdict() {
    let gone = Receiver::start([], None).await;
    let address = gone.address;
    gone.stop().await;
    let error = send(&to(&url(address)), &alert(Severity::Warn)).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { after: None, .. }), "{error:?}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn no_error_tells_a_secret() {
    let answers = [Answer::status(404), Answer::status(500), Answer::header(302, "Location", "/hunter2"), Answer::Close];
    let receiver = Receiver::start(answers.clone(), None).await;
    let address = receiver.address;
    let channel = build(|webhook| {
        webhook.url = Secret::new(format!("http://hunter2:hunter2@{address}/hunter2?hunter2#hunter2"));
        webhook.headers.insert("X-Token".into(), Secret::new("hunter2".into()));
    })
    .unwrap();
    let mut told = vec![format!("{channel:?}")];
    for _ in answers {
        told.push(format!("{:?}", send(&channel, &alert(Severity::Warn)).await.unwrap_err()));
    }
    receiver.stop().await;
    told.push(format!("{:?}", send(&channel, &alert(Severity::Warn)).await.unwrap_err()));
    for url in ["hunter2", "https://hunter2:hunter2@/hunter2", "ftp://example.com/hunter2", "http://[hunter2"] {
        told.push(format!("{:?}", build(|webhook| webhook.url = Secret::new(url.into())).unwrap_err()));
    }
    let header = build(|webhook| {
        webhook.url = Secret::new(url(address));
        webhook.headers.insert("X-Token".into(), Secret::new("hunter2\n".into()));
    });
    told.push(format!("{:?}", header.unwrap_err()));
    assert_eq!(told.len(), 11);
    for text in told {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// A server certificate for 127.0.0.1 and the authority that signed it, in PEM.
fn authority() -> (TlsAcceptor, String) {
    authority_of("127.0.0.1")
}

/// The same for a server of another name.
pub fn authority_of(name: &str) -> (TlsAcceptor, String) {
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new([name.to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], PrivateKeyDer::try_from(server_key.serialize_der()).unwrap())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), pem)
}

/// In the child process of the test below: the URL to send to.
const CHILD_URL: &str = "SYSOPS_AGENT_TEST_TLS_URL";

/// The system's roots are read from where the environment says, and a process's environment is set when it is started: so the
/// test runs itself again, once with the system's own roots and once with the private authority among them.
#[tokio::test]
async fn only_a_certificate_that_the_system_trusts_is_accepted() {
    if let Ok(url) = std::env::var(CHILD_URL) {
        match send(&to(&url), &alert(Severity::Warn)).await {
            Ok(_) => println!("accepted"),
            Err(error) => println!("{error:?}"),
        }
        return;
    }
    let (tls, pem) = authority();
    let mut receiver = Receiver::start([], Some(tls)).await;
    let url = format!("https://{}/alerts", receiver.address);
    let home = tempfile::tempdir().unwrap();
    let roots = home.path().join("roots.pem");
    std::fs::write(&roots, pem).unwrap();
    let (_, stranger) = authority();
    let strangers = home.path().join("strangers.pem");
    std::fs::write(&strangers, stranger).unwrap();

    let child = async |roots| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "webhook::only_a_certificate_that_the_system_trusts_is_accepted", "--nocapture"]);
        command.env(CHILD_URL, &url).env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = child(strangers).await;
    assert!(refused.contains("no trusted TLS connection to https://127.0.0.1:"), "{refused}");
    assert!(refused.contains("Retry") && receiver.was_left_alone(), "{refused}");
    let accepted = child(roots).await;
    assert!(accepted.contains("accepted"), "{accepted}");
    assert_eq!(receiver.next().await.target, "/alerts");
}

/// The same without any preparation: whatever this system trusts, it is not an authority made a moment ago.
#[tokio::test]
async fn a_private_authority_is_refused_by_default() {
    let (tls, _) = authority();
    let mut receiver = Receiver::start([], Some(tls)).await;
    match build(|webhook| webhook.url = Secret::new(format!("https://{}/", receiver.address))) {
        Ok(channel) => {
            let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
            assert!(error.to_string().contains("no trusted TLS connection"), "{error}");
        }
        Err(error) => assert!(error.to_string().contains("install the package ca-certificates"), "{error}"),
    }
    assert!(receiver.was_left_alone());
}
