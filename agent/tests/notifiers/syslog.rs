//! Syslog: lines by the documents, a real rsyslogd that takes them apart again, and ends that come and go.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sysops_agent::config::{Config, Syslog, SyslogFacility, SyslogFormat, SyslogTarget};
use sysops_agent::model::{Alert, Message, Severities, Severity, Status};
use sysops_agent::notifiers::{Channel, SendError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use xtask::faults::{KillOnDrop, needs_program, poll};

use super::golden::{cases, compare, grouped, hostile, huge, readable};
use super::{alert, channel, oom, send, sender};

pub fn example() -> Syslog {
    Syslog {
        facility: SyslogFacility(3),
        tag: "sysops-agent".into(),
        format: SyslogFormat::Rfc3164,
        target: SyslogTarget::Local("/dev/log".into()),
        severities: Severities::from(Severity::Info),
    }
}

fn with(format: SyslogFormat, target: SyslogTarget) -> Channel {
    let mut config = Config::default();
    config.alerting.syslog = Some(Syslog { format, target, ..example() });
    channel("syslog", &config).unwrap().unwrap()
}

fn to(socket: &Path) -> Channel {
    with(SyslogFormat::Rfc3164, SyslogTarget::Local(socket.into()))
}

fn udp(port: u16) -> SyslogTarget {
    SyslogTarget::Udp { host: "127.0.0.1".into(), port }
}

fn tcp(port: u16) -> SyslogTarget {
    SyslogTarget::Tcp { host: "localhost".into(), port }
}

async fn receive(daemon: &UnixDatagram) -> String {
    let mut line = vec![0; 64 * 1024];
    let length = tokio::time::timeout(Duration::from_secs(10), daemon.recv(&mut line)).await.unwrap().unwrap();
    line.truncate(length);
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn severities_are_levels_and_an_end_is_a_notice() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    let channel = to(&path);
    for (severity, priority) in Severity::ALL.into_iter().zip(["<30>", "<28>", "<26>", "<24>"]) {
        send(&channel, &alert(severity)).await.unwrap();
        let line = receive(&daemon).await;
        assert!(line.starts_with(&format!("{priority}Feb 22 16:30:00 sysops-agent[4242]: CPU usage 95.2%")), "{line}");
    }
    send(&channel, &Alert { status: Status::Resolved, ..alert(Severity::Emergency) }).await.unwrap();
    assert!(receive(&daemon).await.starts_with("<29>Feb 22 16:30:00 sysops-agent[4242]: [RESOLVED] CPU usage"));
}

/// A line by the grammar of RFC 5424, section 6: header fields, structured data, message.
struct Parsed {
    header: Vec<String>,
    data: BTreeMap<String, Vec<(String, String)>>,
    message: String,
}

fn parse(line: &str) -> Parsed {
    let visible = |text: &str, max| (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut header = Vec::new();
    let mut rest = line;
    for max in [7, 32, 255, 48, 128, 32] {
        let (field, after) = rest.split_once(' ').unwrap_or_else(|| panic!("too few fields: {line}"));
        assert!(visible(field, max), "{field:?} in {line}");
        header.push(field.to_owned());
        rest = after;
    }
    let (priority, version) = header[0].strip_prefix('<').and_then(|text| text.split_once('>')).unwrap();
    assert!(priority.parse::<u8>().unwrap() <= 191 && !priority.starts_with('0') && version == "1", "{line}");
    header[1].parse::<jiff::Timestamp>().unwrap();
    let mut data = BTreeMap::new();
    if let Some(after) = rest.strip_prefix('-') {
        rest = after;
    }
    let name = |text: &str| visible(text, 32) && !text.contains(['=', ']', '"', ' ']);
    while let Some(element) = rest.strip_prefix('[') {
        let end = element.find([' ', ']']).unwrap();
        let (id, mut after) = element.split_at(end);
        assert!(name(id) && id.ends_with("@32473"), "{id}");
        let mut parameters = Vec::new();
        while let Some(parameter) = after.strip_prefix(' ') {
            let (key, value) = parameter.split_once("=\"").unwrap();
            assert!(name(key), "{key}");
            let (mut text, mut chars) = (String::new(), value.char_indices());
            let end = loop {
                match chars.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => text.push(chars.next().filter(|(_, c)| "\"\\]".contains(*c)).unwrap().1),
                    (_, c) => {
                        assert!(c != ']' && !c.is_control(), "{c:?} in {line}");
                        text.push(c);
                    }
                }
            };
            parameters.push((key.to_owned(), text));
            after = &value[end + 1..];
        }
        rest = after.strip_prefix(']').unwrap();
        assert!(data.insert(id.to_owned(), parameters).is_none(), "{id} stands there twice");
    }
    let message = rest.strip_prefix(" \u{feff}").unwrap_or_else(|| panic!("no message of UTF-8: {rest}")).to_owned();
    assert!(!message.chars().any(char::is_control), "{message:?}");
    Parsed { header, data, message }
}

#[test]
fn every_line_is_as_the_documents_want_it() {
    let mut messages = cases();
    messages.push(("huge", Message::of(huge().into())));
    for target in [SyslogTarget::Local("/dev/log".into()), udp(514), tcp(514)] {
        let max = if matches!(target, SyslogTarget::Udp { .. }) { 2048 } else { 8192 };
        for (case, message) in &messages {
            for line in with(SyslogFormat::Rfc5424, target.clone()).notifier.render(message, &sender()).parts {
                assert!(line.len() <= max, "{case}: {} bytes", line.len());
                let parsed = parse(std::str::from_utf8(&line).unwrap());
                assert_eq!(&parsed.header[2..5], ["web-01", "sysops-agent", "4242"]);
            }
            for line in with(SyslogFormat::Rfc3164, target.clone()).notifier.render(message, &sender()).parts {
                assert!(line.len() <= max, "{case}: {} bytes", line.len());
                let line = std::str::from_utf8(&line).unwrap();
                let host = if matches!(target, SyslogTarget::Local(_)) { "" } else { "web-01 " };
                let (priority, rest) = line.strip_prefix('<').and_then(|text| text.split_once('>')).unwrap();
                assert!(priority.parse::<u8>().unwrap() <= 191, "{line}");
                assert!(rest.starts_with(&format!("Feb 22 16:30:00 {host}sysops-agent[4242]: ")), "{line}");
                assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }
}

#[test]
fn structured_lines_are_as_their_golden_files_say() {
    for (case, message) in cases() {
        let rendered = with(SyslogFormat::Rfc5424, tcp(514)).notifier.render(&message, &sender());
        compare(&format!("syslog/rfc5424-{case}.txt"), &readable(&rendered));
    }
    let rendered = with(SyslogFormat::Rfc3164, udp(514)).notifier.render(&Message::of(oom().into()), &sender());
    compare("syslog/udp-critical.txt", &readable(&rendered));
}

#[test]
fn structured_data_holds_what_the_alert_does_and_counts_what_it_lacks() {
    let line = |alert: Alert| {
        let rendered = with(SyslogFormat::Rfc5424, udp(514)).notifier.render(&Message::of(alert.into()), &sender());
        parse(std::str::from_utf8(&rendered.parts[0]).unwrap())
    };
    let Parsed { header, data, message } = line(hostile());
    assert_eq!((&*header[0], &*header[1], &*header[5]), ("<28>1", "2026-02-22T16:30:00.250+09:00", "cpu_usage_percent"));
    let value = |id: &str, name: &str| &data[id].iter().find(|(key, _)| key == name).unwrap().1;
    assert_eq!(value("sysopsAgent@32473", "value"), "95.2");
    assert_eq!(value("sysopsAgent@32473", "delivery"), "d-1");
    assert_eq!(value("sysopsAgentLabels@32473", "comm"), r#"a b"c\nd=\u{1b}[31m"#);
    assert_eq!(value("sysopsAgentEvidence@32473", "cmdline"), r#"sh -c 'printf "\e[2J"' \u{7f}"#);
    assert!(message.starts_with(r#"line\nbreak \u{1b}[2J"#), "{message}");

    let Parsed { data, .. } = line(huge());
    let left_out: u32 = data["sysopsAgentLeftOut@32473"][0].1.parse().unwrap();
    assert!(left_out > 0 && data.contains_key("sysopsAgent@32473"), "{data:?}");
    assert!(!line(oom()).data.contains_key("sysopsAgentLeftOut@32473"));
}

#[test]
fn a_template_words_the_message_and_keeps_the_structured_data() {
    let lines = |format, template: &str, message: &Message| -> Vec<String> {
        let mut config = Config::default();
        config.alerting.syslog = Some(Syslog { format, target: udp(514), ..example() });
        config.alerting.templates.by_channel.insert("syslog".into(), template.into());
        let channel = channel("syslog", &config).unwrap().unwrap();
        let parts = channel.notifier.render(message, &sender()).parts;
        parts.iter().map(|part| String::from_utf8(part.to_vec()).unwrap()).collect()
    };
    let of = |format| lines(format, "{{ hostname }}: {{ metric }}\nsecond", &grouped());
    let plain = of(SyslogFormat::Rfc3164);
    assert_eq!(plain.len(), 7, "{plain:#?}");
    assert_eq!(plain[2], "<26>Feb 22 16:30:00 web-01 sysops-agent[4242]: web-01: kernel_oom_kill");
    let structured: Vec<_> = of(SyslogFormat::Rfc5424).iter().map(|line| parse(line)).collect();
    assert_eq!((&*structured[2].message, &*structured[3].message), ("web-01: kernel_oom_kill", "second"));
    assert!(structured[2].data["sysopsAgent@32473"].contains(&("id".into(), "i-2".into())), "{:?}", structured[2].data);
    assert!(structured[6].message.starts_with("and 42 more"));
    let remarked = lines(SyslogFormat::Rfc3164, "{{ alerts|length }} {{ remarks|join }}", &grouped());
    assert_eq!(remarked.len(), 1, "{remarked:?}");
}

/// rsyslogd with sockets and ports of its own, which writes what it understood of each line as an object of JSON.
struct Rsyslog {
    _process: KillOnDrop,
    directory: TempDir,
    port: u16,
}

impl Rsyslog {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display().to_string();
        let port = free_port();
        let properties = [
            ("from", "inputname"),
            ("priority", "pri"),
            ("protocol", "protocol-version"),
            ("time", "timereported"),
            ("host", "hostname"),
            ("tag", "syslogtag"),
            ("app", "app-name"),
            ("pid", "procid"),
            ("id", "msgid"),
            ("data", "structured-data"),
            ("message", "msg"),
        ];
        let fields: Vec<String> = properties
            .iter()
            .map(|(name, property)| {
                let date = if *name == "time" { " dateFormat=\"rfc3339\"" } else { "" };
                format!("property(outname=\"{name}\" name=\"{property}\" format=\"jsonf\"{date})")
            })
            .collect();
        let config = format!(
            "global(maxMessageSize=\"8k\" workDirectory=\"{place}\" parser.escapeControlCharactersOnReceive=\"on\")\n\
             module(load=\"imuxsock\" SysSock.Use=\"off\")\nmodule(load=\"imudp\")\nmodule(load=\"imtcp\")\n\
             input(type=\"imuxsock\" Socket=\"{place}/log\" UseSpecialParser=\"off\" IgnoreTimestamp=\"off\" UseSysTimeStamp=\"off\" RateLimit.Interval=\"0\")\n\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\")\n\
             template(name=\"fields\" type=\"list\" option.jsonf=\"on\") {{\n{}\n}}\n\
             *.* action(type=\"omfile\" file=\"{place}/lines\" template=\"fields\")\n",
            fields.join("\n")
        );
        let file = directory.path().join("rsyslog.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("rsyslogd");
        command.args(["-n", "-f"]).arg(&file).arg("-i").arg(directory.path().join("pid"));
        let output = std::fs::File::create(directory.path().join("output")).unwrap();
        let errors = output.try_clone().unwrap();
        let process = KillOnDrop::new(command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().unwrap());
        let rsyslog = Self { _process: process, directory, port };
        poll("the sockets of rsyslogd", Duration::from_secs(20), || {
            let listens = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            Ok((listens && rsyslog.socket().exists()).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", rsyslog.said()));
        rsyslog
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("output")).unwrap_or_default()
    }

    /// What it understood of so many lines.
    fn lines(&self, count: usize) -> Vec<Value> {
        let read = || std::fs::read_to_string(self.directory.path().join("lines")).unwrap_or_default();
        let lines = poll("lines of rsyslogd", Duration::from_secs(20), || {
            let lines: Vec<Value> = read().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            Ok((lines.len() >= count).then_some(lines))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}\n{}", read(), self.said()));
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }
}

/// A port of 127.0.0.1 that nobody has, for both protocols.
fn free_port() -> u16 {
    for _ in 0..100 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

#[tokio::test]
async fn a_real_rsyslogd_takes_lines_apart_as_they_were_put_together() {
    if needs_program("rsyslogd", "rsyslog") {
        return;
    }
    for format in [SyslogFormat::Rfc3164, SyslogFormat::Rfc5424] {
        let rsyslog = Rsyslog::start();
        let targets = [SyslogTarget::Local(rsyslog.socket()), udp(rsyslog.port), tcp(rsyslog.port)];
        for (index, (target, input)) in targets.into_iter().zip(["imuxsock", "imudp", "imtcp"]).enumerate() {
            let channel = with(format, target);
            // The second over the same connection, where there is one.
            for alert in [hostile(), oom()] {
                send(&channel, &alert).await.unwrap();
            }
            let lines = rsyslog.lines(2 * (index + 1));
            let is_local = input == "imuxsock";
            for (line, alert) in lines[2 * index..].iter().zip([hostile(), oom()]) {
                assert_eq!(line["from"], input);
                assert_eq!(line["priority"], if alert.severity == Severity::Warn { "28" } else { "26" });
                // Of the local socket, rsyslogd puts its own host's name into lines of RFC 3164, which have none.
                if !(is_local && format == SyslogFormat::Rfc3164) {
                    assert_eq!(line["host"], "web-01", "{line:#}");
                }
                assert_eq!((&line["app"], &line["pid"]), (&"sysops-agent".into(), &"4242".into()), "{line:#}");
                let message = line["message"].as_str().unwrap();
                if format == SyslogFormat::Rfc3164 {
                    let start = if alert.severity == Severity::Warn { r"line\nbreak \u{1b}[2J" } else { "OOM killer chose java" };
                    assert!(message.trim_start().starts_with(start), "{line:#}");
                    assert_eq!(
                        (&line["tag"], &line["data"], &line["id"]),
                        (&"sysops-agent[4242]:".into(), &"-".into(), &"-".into())
                    );
                    assert!(message.contains(" metric="), "{line:#}");
                } else {
                    assert_eq!((&line["protocol"], &line["id"]), (&"1".into(), &alert.metric.as_ref().into()));
                    assert_eq!(line["time"], "2026-02-22T16:30:00.250+09:00");
                    let rendered = channel.notifier.render(&Message::of(alert.into()), &sender());
                    let sent = parse(std::str::from_utf8(&rendered.parts[0]).unwrap());
                    assert_eq!(message.trim_start_matches('\u{feff}'), sent.message, "{line:#}");
                    // As it stands in the line, escapes and all.
                    let data = line["data"].as_str().unwrap();
                    assert_eq!(parse(&format!("<1>1 2026-02-22T16:30:00Z - - - - {data} \u{feff}")).data, sent.data);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_real_rsyslogd_takes_large_lines_and_groups_over_tcp() {
    if needs_program("rsyslogd", "rsyslog") {
        return;
    }
    for format in [SyslogFormat::Rfc3164, SyslogFormat::Rfc5424] {
        let rsyslog = Rsyslog::start();
        let channel = with(format, tcp(rsyslog.port));
        for message in [Message::of(huge().into()), grouped()] {
            channel.notifier.send(&channel.notifier.render(&message, &sender())).await.unwrap();
        }
        let lines = rsyslog.lines(5);
        let last = lines[4]["message"].as_str().unwrap();
        assert!(last.trim_start_matches(['\u{feff}', ' ']).starts_with("and 42 more: 40 warn disk_usage_percent"), "{last}");
        assert!(lines.iter().all(|line| line["app"] == "sysops-agent"), "{lines:#?}");
    }
}

#[tokio::test]
async fn a_daemon_that_restarts_loses_nothing_after_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    let channel = to(&path);
    let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }) && error.to_string().contains("start the syslog daemon"), "{error:?}");

    let daemon = UnixDatagram::bind(&path).unwrap();
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    receive(&daemon).await;

    drop(daemon);
    let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }) && error.to_string().contains("nobody listens there"), "{error:?}");

    std::fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    receive(&daemon).await;

    // This time nobody notices between the end of the one and the start of the other.
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    receive(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_read_holds_nobody_for_long() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    let _daemon = UnixDatagram::bind(&path).unwrap();
    let channel = to(&path);
    let error = loop {
        if let Err(error) = send(&channel, &alert(Severity::Warn)).await {
            break error;
        }
    };
    assert!(matches!(error, SendError::Retry { .. }) && error.to_string().contains("does not read its socket"), "{error:?}");
}

async fn accept(listener: &TcpListener) -> TcpStream {
    tokio::time::timeout(Duration::from_secs(10), listener.accept()).await.expect("no connection within 10 s").unwrap().0
}

/// The next line of RFC 5424 with its length before it.
async fn counted(stream: &mut TcpStream) -> String {
    let mut length = 0;
    loop {
        match stream.read_u8().await.unwrap() {
            b' ' => break,
            digit => length = 10 * length + usize::from(digit - b'0'),
        }
    }
    let mut line = vec![0; length];
    stream.read_exact(&mut line).await.unwrap();
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn a_connection_serves_until_the_other_end_closes_it_and_no_line_goes_into_a_closed_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = with(SyslogFormat::Rfc5424, tcp(listener.local_addr().unwrap().port()));
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    let mut first = accept(&listener).await;
    parse(&counted(&mut first).await);
    send(&channel, &alert(Severity::Critical)).await.unwrap();
    assert!(parse(&counted(&mut first).await).header[0].starts_with("<26>"), "not over the same connection");

    // An orderly end, as of a server that restarts.
    first.shutdown().await.unwrap();
    drop(first);
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    let mut second = accept(&listener).await;
    parse(&counted(&mut second).await);

    // A server that dies with a line unread resets the connection: nobody knows what it had taken.
    send(&channel, &alert(Severity::Critical)).await.unwrap();
    let _ = second.readable().await;
    drop(second);
    send(&channel, &alert(Severity::Info)).await.unwrap();
    let mut third = accept(&listener).await;
    assert!(parse(&counted(&mut third).await).header[0].starts_with("<30>"));

    drop((third, listener));
    let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SendError::Retry { .. }), "{error:?}");
    assert!(text.contains("the syslog server tcp://localhost:") && text.contains("check alerting.syslog.address"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_buffers_are_full_holds_nobody_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel =
        with(SyslogFormat::Rfc3164, SyslogTarget::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() });
    let mut rendered = channel.notifier.render(&Message::of(huge().into()), &sender());
    rendered.parts = vec![rendered.parts[0].clone(); 100];
    let error = loop {
        if let Err(error) = channel.notifier.send(&rendered).await {
            break error;
        }
    };
    assert!(matches!(&error, SendError::Retry { reason, .. } if reason.contains("does not take them")), "{error:?}");
}

#[tokio::test]
async fn a_host_without_such_a_port_says_so() {
    let taken = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let channel = with(SyslogFormat::Rfc3164, udp(address.port()));
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    let mut line = vec![0; 4096];
    let length = taken.recv(&mut line).await.unwrap();
    assert!(line[..length].starts_with(b"<28>Feb 22 16:30:00 web-01 sysops-agent[4242]: CPU usage"));
    drop(taken);
    let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }) && error.to_string().contains("Connection refused"), "{error:?}");
}
