//! What all channels that speak HTTP have in common: whom they trust, through whom they go, and whom they do not follow.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use sysops_agent::config::{Config, Secret};
use sysops_agent::model::Severity;
use sysops_agent::notifiers::{BuildError, Channel, Clients, NOTIFIERS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::receiver::{Answer, Receiver};
use super::webhook::{self, authority_of};
use super::{alert, send};

/// In the child process of a test: the URL to send to, and the authority to trust.
const CHILD_URL: &str = "SYSOPS_AGENT_TEST_TRANSPORT_URL";
const CHILD_CA: &str = "SYSOPS_AGENT_TEST_TRANSPORT_CA";

fn channel_to(url: &str, ca_file: Option<&Path>) -> Result<Channel, BuildError> {
    let mut config = Config::default();
    config.alerting.webhook = Some(webhook::configured(|webhook| {
        webhook.url = Secret::new(url.into());
        webhook.headers.insert("X-Token".into(), Secret::new("hunter2".into()));
    }));
    let row = NOTIFIERS.iter().find(|row| row.name == "webhook").unwrap();
    (row.build)(&config, &Clients::new(ca_file.map(Into::into))).map(Option::unwrap)
}

async fn told(url: &str, ca_file: Option<&Path>) -> String {
    match channel_to(url, ca_file) {
        Ok(channel) => match send(&channel, &alert(Severity::Warn)).await {
            Ok(_) => "accepted".to_owned(),
            Err(error) => format!("{error:?}"),
        },
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_a_file_names_it() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let (tls, ca) = authority_of("127.0.0.1");
    let mut receiver = Receiver::start([], Some(tls)).await;
    let url = format!("https://{}/alerts", receiver.address);
    let (_, stranger) = authority_of("127.0.0.1");

    let refused = told(&url, Some(&file("stranger.pem", &stranger))).await;
    assert!(refused.contains("Retry") && refused.contains("or in [alerting] ca_file"), "{refused}");
    assert!(receiver.was_left_alone());

    // Several in one file, with the text that openssl writes between them.
    let both = file("both.pem", &format!("# old\n{stranger}\n# new\n{ca}"));
    assert_eq!(told(&url, Some(&both)).await, "accepted");
    assert_eq!(receiver.next().await.target, "/alerts");

    let (tls, ca) = authority_of("alerts.example.org");
    let mut other = Receiver::start([], Some(tls)).await;
    let refused = told(&format!("https://{}/", other.address), Some(&file("other.pem", &ca))).await;
    assert!(refused.contains("no trusted TLS connection") && refused.contains("not valid for name"), "{refused}");
    assert!(other.was_left_alone());
}

#[tokio::test]
async fn a_useless_authority_file_says_so() {
    let home = tempfile::tempdir().unwrap();
    for (content, says) in [
        (None, "cannot read [alerting] ca_file"),
        (Some(""), "holds no certificate; write them in PEM"),
        (Some("-----BEGIN CERTIFICATE-----\nAAAA\n"), "is no list of certificates in PEM"),
        (Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "cannot make a TLS client"),
    ] {
        let path = home.path().join("ca.pem");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = channel_to("https://127.0.0.1/hunter2", Some(&path)).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        assert!(channel_to("http://127.0.0.1/", Some(&path)).is_ok(), "plain text asks for no authority");
    }
}

#[tokio::test]
async fn no_credential_follows_a_redirect() {
    let mut second = Receiver::start([], None).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://localhost:{}/", second.address.port());
        let mut first = Receiver::start([Answer::header(status, "Location", &location)], None).await;
        let refused = told(&format!("http://{}/", first.address), None).await;
        assert!(refused.contains("redirects are not followed"), "{refused}");
        assert_eq!(first.next().await.headers["x-token"], "hunter2");
        assert!(second.was_left_alone(), "{status} was followed");
    }
}

/// A proxy on loopback that tunnels every `CONNECT` to one address, and what it was asked.
async fn tunnel(to: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = client.read_u8().await else { break };
                head.push(byte);
            }
            let head = String::from_utf8_lossy(&head);
            log.lock().unwrap().extend(head.lines().next().map(str::to_owned));
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (address, asked)
}

/// Which proxy is used is in the environment, and that of a process is set when it is started: so the test runs itself again.
#[tokio::test]
async fn proxies_of_the_environment_are_used() {
    if let Ok(url) = std::env::var(CHILD_URL) {
        let ca = std::env::var_os(CHILD_CA);
        println!("{}", told(&url, ca.as_ref().map(Path::new)).await);
        return;
    }
    let child = async |url: &str, ca: &Path, environment: &[(&str, &str)]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "transport::proxies_of_the_environment_are_used", "--nocapture"]);
        for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.env(CHILD_URL, url).env(CHILD_CA, ca).envs(environment.iter().copied());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("accepted"), "{said}");
    };
    let home = tempfile::tempdir().unwrap();
    let (tls, ca) = authority_of("alerts.example.org");
    let ca_file = home.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();

    // Nobody could resolve these names.
    let mut forward = Receiver::start([], None).await;
    let proxy = format!("http://{}", forward.address);
    child("http://alerts.example.invalid/hook", &ca_file, &[("HTTP_PROXY", &proxy)]).await;
    let request = forward.next().await;
    assert_eq!(
        (request.target.as_str(), &request.headers["host"]),
        ("http://alerts.example.invalid/hook", &"alerts.example.invalid".parse().unwrap())
    );

    let mut receiver = Receiver::start([], Some(tls)).await;
    let (address, asked) = tunnel(receiver.address).await;
    let proxy = format!("http://{address}");
    child("https://alerts.example.org/hook", &ca_file, &[("HTTPS_PROXY", &proxy)]).await;
    assert_eq!(receiver.next().await.target, "/hook");
    assert_eq!(*asked.lock().unwrap(), ["CONNECT alerts.example.org:443 HTTP/1.1"]);

    let mut direct = Receiver::start([], None).await;
    let url = format!("http://{}/direct", direct.address);
    child(&url, &ca_file, &[("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1")]).await;
    assert_eq!(direct.next().await.target, "/direct");
}
