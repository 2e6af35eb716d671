//! Alertmanager: its schema over everything that is rendered, its answers, and the real program on loopback.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sysops_agent::config::{Alertmanager, Config, Login, Secret};
use sysops_agent::model::{Alert, Labels, Message, News, Severities, Severity, Status, Timestamp};
use sysops_agent::notifiers::{Accepted, Channel, SendError};
use xtask::faults::{KillOnDrop, needs_program};

use super::golden::{cases, hostile, huge, render};
use super::stand_in::{Reply, Request, Service};
use super::{alert, channel, oom, sender};

pub fn configured(url: &str, login: Login) -> Alertmanager {
    Alertmanager { urls: vec![Secret::new(url.into())], login, severities: Severities::from(Severity::Info) }
}

fn built(alertmanager: Alertmanager) -> Channel {
    let mut config = Config::default();
    config.alerting.alertmanager = Some(alertmanager);
    channel("alertmanager", &config).unwrap().unwrap()
}

async fn send(channel: &Channel, message: &Message) -> Result<Accepted, SendError> {
    channel.notifier.send(&channel.notifier.render(message, &sender())).await
}

/// What is wrong with a body: the schema `postableAlerts` of Alertmanager's `api/v2/openapi.yaml`, and what its `Alert.Validate`
/// refuses beyond.
fn faults(body: &[u8], is_sent: bool) -> Option<String> {
    let posts: Value = serde_json::from_slice(body).ok()?;
    let posts = posts.as_array().filter(|posts| !posts.is_empty())?;
    let check = |post: &Value| -> Result<(), String> {
        let known = ["labels", "annotations", "startsAt", "endsAt", "generatorURL"];
        if let Some(key) = post.as_object().unwrap().keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("unknown property {key}"));
        }
        for kind in ["labels", "annotations"] {
            for (name, value) in post[kind].as_object().ok_or("no object")? {
                let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return Err(format!("{kind} have the name {name:?}"));
                }
                let value = value.as_str().ok_or("no string")?;
                if value.is_empty() || value.len() > 8192 || value.chars().any(|c| c != '\n' && c.is_control()) {
                    return Err(format!("{kind}.{name} is {value:?}"));
                }
            }
        }
        let time = |key: &str| post[key].as_str().map(|text| text.parse::<jiff::Timestamp>().map_err(|error| error.to_string()));
        let (start, end) = (time("startsAt").ok_or("no start")??, time("endsAt").transpose()?);
        if is_sent && end.is_none() || end.is_some_and(|end| end < start) {
            return Err(format!("it starts {start} and ends {end:?}"));
        }
        Ok(())
    };
    posts.iter().find_map(|post| check(post).err())
}

#[test]
fn everything_rendered_is_what_the_schema_takes() {
    let more = [("hostile", Message::of(hostile().into())), ("huge", Message::of(huge().into()))];
    for (case, message) in cases().into_iter().chain(more) {
        let rendered = render("alertmanager", &message);
        assert!(serde_json::from_slice::<Vec<Value>>(&rendered.text()).is_ok_and(|posts| posts.len() >= message.news.len()));
        assert_eq!(faults(&rendered.text(), false), None, "{case}");
    }
    let two = render("alertmanager", &Message::of(huge().into())).text();
    assert!(two.len() < 64 * 1024, "{}", two.len());
}

#[test]
fn labels_that_would_be_the_same_stay_apart() {
    let labels = Labels::new().with("a.b", "1").with("a-b", "2").with("severity", "3").with("instance", "4").with("none", "");
    let posts = render("alertmanager", &Message::of(Alert { labels, ..alert(Severity::Warn) }.into())).text();
    let posts: Value = serde_json::from_slice(&posts).unwrap();
    let expected = serde_json::json!({
        "alertname": "cpu_usage_percent", "instance": "web-01", "severity": "warn",
        "a_b": "2", "a_b_": "1", "label_severity": "3", "label_instance": "4",
    });
    assert_eq!(posts[0]["labels"], expected);
}

/// A member of a cluster as `api/v2/api.go` answers: 200 without a body, or 400 with a text.
fn member(request: &Request) -> Reply {
    if (request.method.as_str(), request.target.as_str()) != ("POST", "/prefix/api/v2/alerts") {
        return Reply::new(404, "page not found");
    }
    match faults(&request.body, true) {
        _ if request.header("content-type") != "application/json" => Reply::new(415, "unsupported media type"),
        Some(fault) => Reply::new(400, Value::from(fault)),
        None => Reply::new(200, ""),
    }
}

#[tokio::test]
async fn logins_reach_it_and_its_path_is_kept() {
    let service = Service::start(member).await;
    let url = format!("{}/prefix/", service.url());
    let basic = Login::Basic(Secret::new("ops".into()), Secret::new("hunter2".into()));
    let logins = [Login::None, basic, Login::Bearer(Secret::new("hunter2".into()))];
    for (login, header) in logins.into_iter().zip(["", "Basic b3BzOmh1bnRlcjI=", "Bearer hunter2"]) {
        send(&built(configured(&url, login)), &Message::of(oom().into())).await.unwrap();
        assert_eq!(service.take()[0].header("authorization"), header);
    }
    let url = url.replace("http://", "http://ops:hunter2@");
    send(&built(configured(&url, Login::None)), &Message::of(oom().into())).await.unwrap();
    assert_eq!(service.take()[0].header("authorization"), "Basic b3BzOmh1bnRlcjI=");
}

#[tokio::test]
async fn a_cluster_has_it_when_all_that_answer_have() {
    let good = Service::fixed(Reply::new(200, "")).await;
    let failing = Service::fixed(Reply::new(503, "")).await;
    let strict = Service::fixed(Reply::new(400, r#""bad""#)).await;
    let locked = Service::fixed(Reply::new(401, "")).await;
    let gone = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let cases = [
        (vec![good.url()], "accepted"),
        (vec![good.url(), gone.clone()], "accepted"),
        (vec![gone.clone(), good.url()], "accepted"),
        (vec![gone.clone()], "Retry"),
        (vec![good.url(), failing.url()], "Retry"),
        (vec![strict.url(), failing.url(), good.url()], "Retry"),
        (vec![good.url(), strict.url()], "Permanent"),
        (vec![gone, strict.url()], "Permanent"),
        (vec![locked.url()], "check the credentials in [alerting.alertmanager]"),
    ];
    for (urls, expected) in cases {
        let urls = urls.iter().map(|url| Secret::new(url.clone())).collect();
        let channel = built(Alertmanager { urls, ..configured("", Login::None) });
        let told = match send(&channel, &Message::of(oom().into())).await {
            Ok(_) => "accepted".to_owned(),
            Err(error) => format!("{error:?}"),
        };
        assert!(told.contains(expected), "{told} lacks {expected}");
    }
}

/// The real program, for as long as this lives.
struct Program {
    url: String,
    _process: KillOnDrop,
    _home: tempfile::TempDir,
}

impl Program {
    /// Starts it; what it notifies of goes to `notified`.
    fn start(notified: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("am.yml");
        let receiver = format!("[{{name: test, webhook_configs: [{{url: '{notified}', send_resolved: true}}]}}]");
        let route = "{receiver: test, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}";
        std::fs::write(&config, format!("route: {route}\nreceivers: {receiver}\n")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", home.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--cluster.listen-address=", "--web.route-prefix=/prefix", "--log.level=error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { url: format!("http://{address}/prefix"), _process: KillOnDrop::new(process), _home: home }
    }

    /// What goes on, as its own API tells: incident and severity.
    async fn active(&self) -> Option<Vec<(String, String)>> {
        let mut answer = get(&format!("{}/api/v2/alerts", self.url)).await?;
        let mut active: Vec<_> = answer
            .as_array_mut()?
            .iter()
            .map(|alert| {
                assert_eq!(alert["labels"]["instance"], "web-01");
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (text(&alert["annotations"]["incident"]), text(&alert["labels"]["severity"]))
            })
            .collect();
        active.sort();
        Some(active)
    }

    async fn until(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(incident, severity)| ((*incident).into(), (*severity).into())).collect();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let active = self.active().await;
            if active.as_ref() == Some(&expected) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{active:?} is not {expected:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The JSON at a URL, by a request of HTTP/1.0, which has no chunks.
async fn get(url: &str) -> Option<Value> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (address, path) = url.strip_prefix("http://")?.split_once('/')?;
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_nanos(since.as_nanos().try_into().unwrap())
}

#[tokio::test]
async fn the_real_program_tells_begin_change_and_end() {
    if needs_program("prometheus-alertmanager", "prometheus-alertmanager") {
        return;
    }
    let notified = Service::fixed(Reply::new(200, "")).await;
    let program = Program::start(&notified.url());
    program.until(&[]).await;
    let channel = built(configured(&program.url, Login::None));
    let deliveries = AtomicU64::new(0);
    let news = |id: &str, template: Alert, status, previous: Option<&News>| {
        let delivery = format!("{id}-{}", deliveries.fetch_add(1, Ordering::Relaxed));
        let alert = Alert { id: id.into(), delivery, at: now(), status, ..template };
        News { alert: alert.into(), previous: previous.map(|news| news.alert.clone()), superseded: 0 }
    };
    let message = |news: Vec<News>| Message { news, ..Message::of(oom().into()) };

    let cpu = news("cpu", alert(Severity::Warn), Status::Firing, None);
    let killed = news("oom", oom(), Status::Firing, None);
    let odd = news("odd", Alert { metric: "log_match".into(), ..hostile() }, Status::Firing, None);
    send(&channel, &message(vec![cpu.clone(), killed.clone(), odd])).await.unwrap();
    program.until(&[("cpu", "warn"), ("odd", "warn"), ("oom", "critical")]).await;

    // Told again, it is the same; told worse, the old one is over in the same moment.
    let again = news("oom", oom(), Status::Firing, Some(&killed));
    let worse = news("cpu", alert(Severity::Critical), Status::Updated, Some(&cpu));
    send(&channel, &message(vec![worse.clone(), again.clone()])).await.unwrap();
    program.until(&[("cpu", "critical"), ("odd", "warn"), ("oom", "critical")]).await;

    let over = news("cpu", alert(Severity::Critical), Status::Resolved, Some(&worse));
    let calm = news("oom", oom(), Status::Resolved, Some(&again));
    send(&channel, &message(vec![over, calm])).await.unwrap();
    program.until(&[("odd", "warn")]).await;

    // What it told its own receiver of the first incident: begin and end of both severities.
    let mut told: Vec<(String, String)> = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while told.len() < 4 {
        assert!(tokio::time::Instant::now() < deadline, "{told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        for alert in notified.take().iter().flat_map(|request| request.json()["alerts"].as_array().unwrap().clone()) {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let pair = (text(&alert["status"]), text(&alert["labels"]["severity"]));
            if alert["annotations"]["incident"] == "cpu" && !told.contains(&pair) {
                told.push(pair);
            }
        }
    }
    told.sort();
    let expected = [("firing", "critical"), ("firing", "warn"), ("resolved", "critical"), ("resolved", "warn")];
    assert_eq!(told, expected.map(|(status, severity)| (status.to_owned(), severity.to_owned())));
}
