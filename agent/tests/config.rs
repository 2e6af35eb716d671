//! The shipped configurations are good and complete, and each bad one gets exactly its expected problems.
//!
//! Every `tests/configs/invalid/NAME.toml` stands beside a `NAME.expected`. After a deliberate change of messages,
//! `UPDATE_EXPECT=1 cargo test -p sysops-agent --test config` writes the latter anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sysops_agent::config::{
    Alerting, Analyzer, Collector, Config, Escalation, Grouping, HostRoots, Login, Problems, ProcessCollector, Recorder, Secret,
    SlackAccess, SmtpEncryption, SyslogFormat, Thresholds, known_keys, load, parse, parse_bytes,
};
use toml::de::{DeTable, DeValue};

const CONFIG: &str = include_str!("../../config/config.toml");
const MINIMAL: &str = include_str!("../../config/minimal.toml");

/// What no problem may ever show.
const VARIABLE: &str = "hunter2-from-the-environment";
/// Each secret in the bad configurations holds this.
const SECRET: &str = "hunter2";
/// Of the two ways to Slack, one can stand in a file.
const SLACK_WEBHOOK: &str = "webhook_url = \"${SLACK_WEBHOOK_URL}\"\n";
const SLACK_BOT: [&str; 2] = ["# bot_token = \"${SLACK", "# api_url = \"https://slack"];

fn no_env(_: &str) -> Option<String> {
    None
}

fn test_env(name: &str) -> Option<String> {
    match name {
        "SET" => Some(VARIABLE.into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

/// What the variables of the shipped file are.
fn variable(name: &str) -> &'static str {
    match name {
        "PAGERDUTY_ROUTING_KEY" => "0123456789abcdef0123456789abcdef",
        "SLACK_BOT_TOKEN" => "xoxb-1",
        name if name.contains("TOKEN") => "1:a",
        _ => "https://example.org/x",
    }
}

fn good(text: &str) -> Config {
    parse(text, Path::new("t.toml"), &no_env).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: &str) -> Problems {
    match parse(text, Path::new("t.toml"), &no_env) {
        Ok(_) => panic!("the configuration is accepted"),
        Err(problems) => problems,
    }
}

/// The shipped file with its commented keys, which look like `# key = value`, made real.
fn uncommented(text: &str) -> String {
    let is_key =
        |line: &str| line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(key) if is_key(key) => format!("{key}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn shipped_file_states_the_defaults() {
    assert_eq!(good(CONFIG), Config::default());
    assert_eq!(good(""), Config::default());
}

#[test]
fn minimal_file_needs_no_environment() {
    assert_eq!(good(MINIMAL), Config::default());
}

#[test]
fn shipped_file_holds_every_key_and_its_range() {
    let text = uncommented(CONFIG);
    let env = |name: &str| Some(variable(name).to_owned());
    parse(&text, Path::new("config.toml"), &env).unwrap_or_else(|problems| panic!("{problems}"));

    let mut shipped = BTreeSet::new();
    let (document, errors) = DeTable::parse_recoverable(&text);
    assert!(errors.is_empty());
    collect(document.get_ref(), "", &mut shipped);
    let known = known_keys();
    let paths: BTreeSet<String> = known.iter().map(|key| key.path.clone()).collect();
    assert_eq!(paths.len(), known.len(), "a key is read twice");
    assert_eq!(shipped, paths, "config.toml differs from the keys that are read");

    let comments: String = CONFIG.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let words = comments.split_whitespace().collect::<Vec<_>>().join(" ");
    for key in known {
        // "a whole number of seconds from 1 to 60", "a ratio above 0, at most 1"
        let range = ["from ", "above "].into_iter().filter_map(|word| key.expects.find(word)).min();
        let Some(range) = range.and_then(|start| key.expects.get(start..)) else { continue };
        assert!(words.to_lowercase().contains(range), "config.toml does not say that {} is {range:?}", key.path);
    }
}

/// Paths of the keys that hold values.
fn collect(table: &DeTable<'_>, path: &str, keys: &mut BTreeSet<String>) {
    for (name, value) in table {
        let path = if path.is_empty() { name.get_ref().to_string() } else { format!("{path}.{}", name.get_ref()) };
        match value.get_ref() {
            DeValue::Table(table) if !["alerting.webhook.headers", "thresholds.overrides.labels"].contains(&&*path) => {
                collect(table, &path, keys)
            }
            DeValue::Array(array) => {
                array.iter().filter_map(|item| item.get_ref().as_table()).for_each(|table| collect(table, &path, keys));
                keys.insert(path);
            }
            _ => {
                keys.insert(path);
            }
        }
    }
}

#[test]
fn shipped_channels_state_their_defaults() {
    const REQUIRED: [&str; 9] =
        ["webhook_url", "bot_token", "chat_id", "smtp_host", "from", "to", "url", "routing_key", "api_key"];
    let channels = CONFIG.get(CONFIG.find("[alerting.discord]").unwrap()..).unwrap();
    let mut full = String::new();
    let mut least = String::new();
    for line in channels.lines().filter(|line| !SLACK_BOT.iter().any(|key| line.starts_with(key))) {
        let key = line.trim_start_matches("# ").split(' ').next().unwrap();
        if line.starts_with('[') || line == "enabled = false" {
            least += &format!("{line}\n");
        }
        if REQUIRED.contains(&key) {
            least += &format!("{}\n", line.trim_start_matches("# "));
            full += &format!("{}\n", line.trim_start_matches("# "));
        } else {
            full += &format!("{line}\n");
        }
    }
    let env = |name: &str| Some(variable(name).to_owned());
    let read = |text: &str| {
        let text = text.replace("enabled = false", "enabled = true");
        parse(&text, Path::new("t.toml"), &env).unwrap_or_else(|problems| panic!("{problems}")).alerting
    };
    let full = read(&full);
    assert_eq!(full, read(&least));
    assert!(full.discord.is_some() && full.slack.is_some() && full.telegram.is_some(), "{full:?}");
    assert!(full.email.is_some() && full.webhook.is_some() && full.syslog.is_some(), "{full:?}");
    assert!(full.teams.is_some() && full.ntfy.is_some(), "{full:?}");
    assert!(full.alertmanager.is_some() && full.pagerduty.is_some() && full.opsgenie.is_some(), "{full:?}");
}

#[test]
fn optional_keys_are_read() {
    let text = uncommented(CONFIG).replace("enabled = false", "enabled = true").replace(SLACK_WEBHOOK, "");
    let env = |name: &str| Some(variable(name).to_owned());
    let config = parse(&text, Path::new("t.toml"), &env).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.agent.hostname.as_deref(), Some("web-01"));
    assert_eq!(config.log_analyzer.custom_patterns[0].pattern.0.as_str(), r"link is down on (?P<port>\S+)");
    let alerting = &config.alerting;
    let api_url = Secret::new("https://slack.com/api/".into());
    assert_eq!(alerting.slack.as_ref().unwrap().access, SlackAccess::Bot { token: Secret::new("xoxb-1".into()), api_url });
    assert_eq!(alerting.discord.as_ref().unwrap().webhook_url.reveal(), "https://example.org/x");
    assert_eq!(alerting.webhook.as_ref().unwrap().headers["Authorization"].reveal(), "Bearer 1:a");
    assert_eq!(alerting.syslog.as_ref().unwrap().facility.0, 3);
    assert_eq!(alerting.templates.by_channel.len(), 11);
    let [weekly, once] = alerting.silences.as_slice() else { panic!("{:?}", alerting.silences) };
    assert_eq!((weekly.id.as_str(), weekly.comment.as_str()), ("config-1", "weekly backup"));
    assert_eq!(weekly.window.to_string(), "sat, sun 22:00 to 06:00 Europe/Berlin");
    assert_eq!(once.window.to_string(), "2026-03-01T21:00:00Z to 2026-03-02T01:00:00Z");
    assert_eq!(once.matchers, ["severity=~\"info|warn\"".parse().unwrap()]);
    assert!(!format!("{config:?}").contains("https://example.org/x"), "a secret is shown");
}

#[test]
fn channels_that_are_not_enabled_are_left_out() {
    let config = good("[alerting.webhook]\nmethod = \"PUT\"\n[alerting.email]\nenabled = false\nsmtp_port = 25\n");
    assert_eq!(config, Config::default());
}

#[test]
fn numbers_and_units_are_converted() {
    let config = good(concat!(
        "recorder = { max_size_mb = 2, window_minutes = 3 }\n",
        "storage.sqlite_retention_days = 2\n",
        "[analyzer]\ntrend_window_hours = 0x2\nzscore_threshold = 2\n",
        "[ebpf]\nblock_io_slow_ms = 1_500\nprobes = ['fd', 'oom']\n",
        "[alerting.telegram]\nenabled = true\nbot_token = '1:a'\nchat_id = -100123\n",
        "[alerting.discord]\nenabled = true\nwebhook_url = 'https://example.org'\nembed_color_warn = 0x00ff00\n",
    ));
    assert_eq!(config.recorder.max_size, 2 << 20);
    assert_eq!(config.recorder.window.as_secs(), 180);
    assert_eq!(config.storage.sqlite_retention.as_secs(), 2 * 86_400);
    assert_eq!(config.analyzer.trend_window.as_secs(), 7200);
    assert_eq!(config.analyzer.zscore_threshold, 2.0);
    assert_eq!(config.ebpf.block_io_slow.as_millis(), 1500);
    assert_eq!(config.ebpf.probes, ["fd", "oom"]);
    assert_eq!(config.alerting.telegram.unwrap().chat_id, "-100123");
    assert_eq!(config.alerting.discord.unwrap().embed_color_warn, 0xff00);
}

#[test]
fn mail_is_encrypted_as_its_port_and_its_keys_say() {
    for (keys, expected) in [
        ("", SmtpEncryption::StartTls),
        ("smtp_port = 465", SmtpEncryption::Implicit),
        ("smtp_port = 465\nsmtp_tls_mode = 'starttls'", SmtpEncryption::StartTls),
        ("smtp_port = 2525\nsmtp_tls_mode = 'implicit'", SmtpEncryption::Implicit),
        ("smtp_port = 25\nsmtp_tls = false", SmtpEncryption::None),
        ("smtp_tls = false\nsmtp_host = '::1'\nusername = 'a'\npassword = 'b'", SmtpEncryption::None),
    ] {
        let host = if keys.contains("smtp_host") { "" } else { "smtp_host = 'mail.example.org'\n" };
        let text = format!("[alerting.email]\nenabled = true\n{host}from = 'a@example.org'\nto = ['b@example.org']\n{keys}\n");
        assert_eq!(good(&text).alerting.email.unwrap().encryption, expected, "{keys}");
    }
}

#[test]
fn syslog_goes_to_a_server_where_one_is_named() {
    let target = |keys: &str| {
        let config = good(&format!("[alerting.syslog]\nenabled = true\nsocket = '/run/log'\n{keys}\n"));
        let syslog = config.alerting.syslog.unwrap();
        (syslog.format, syslog.target.to_string())
    };
    assert_eq!(target(""), (SyslogFormat::Rfc3164, "/run/log".into()));
    for address in ["udp://logs.example.org:514", "tcp://[2001:db8::1]:601", "tcp://192.0.2.1:65535"] {
        let keys = format!("format = 'rfc5424'\naddress = '{address}'");
        assert_eq!(target(&keys), (SyslogFormat::Rfc5424, address.into()));
    }
    for address in
        ["logs:514", "tls://logs:6514", "udp://logs", "udp://:514", "udp://logs:0", "udp://2001:db8::1:514", "tcp://a b:1"]
    {
        let problems = bad(&format!("[alerting.syslog]\nenabled = true\naddress = '{address}'")).to_string();
        assert!(problems.contains("; write \"udp://host:port\" or \"tcp://host:port\""), "{problems}");
    }
}

#[test]
fn each_number_reaches_its_own_field() {
    let config = good(concat!(
        "agent.collect_interval_secs = 1\n",
        "host = { procfs = '/p', sysfs = '/s', rootfs = '/r' }\n",
        "[collector]\ncpu_interval_secs = 2\nmemory_interval_secs = 3\ndisk_interval_secs = 4\n",
        "network_interval_secs = 5\nprocess_interval_secs = 6\nfd_interval_secs = 7\nprocess.track_top_n = 8\n",
        "[thresholds]\ncpu_percent = 1\nmemory_percent = 2\ndisk_percent = 3\ndisk_inode_percent = 4\nfd_percent = 5\n",
        "load_avg_multiplier = 6\nnetwork_error_rate = 0.7\n",
        "[analyzer]\nzscore_window = 9\nzscore_threshold = 8\nema_alpha = 0.7\ntrend_window_hours = 6\n",
        "leak_min_observation_hours = 5\nleak_r_squared_threshold = 0.4\n",
        "[recorder]\nwindow_minutes = 9\npost_minutes = 8\nmax_size_mb = 7\nflush_interval_secs = 6\nmax_bundles = 5\n",
        "[alerting]\nmin_interval_secs = 1\ndedup_window_secs = 2\nmax_alerts_per_minute = 3\nmax_alerts_per_hour = 4\n",
        "max_alerts_per_hour_overall = 5\ngrouping.window_secs = 6\nescalation.warn_to_critical_after = 7\n",
        "escalation.critical_to_emergency_after_mins = 8\nrecovery.enabled = false\n",
    ));
    let secs = Duration::from_secs;
    assert_eq!(config.agent.collect_interval, secs(1));
    assert_eq!(config.host, HostRoots { procfs: "/p".into(), sysfs: "/s".into(), rootfs: "/r".into() });
    assert_eq!(
        config.collector,
        Collector {
            cpu_interval: secs(2),
            memory_interval: secs(3),
            disk_interval: secs(4),
            network_interval: secs(5),
            process_interval: secs(6),
            fd_interval: secs(7),
            process: ProcessCollector { track_top_n: 8, track_patterns: Vec::new() },
        }
    );
    assert_eq!(
        config.thresholds,
        Thresholds {
            cpu_percent: 1.0,
            memory_percent: 2.0,
            disk_percent: 3.0,
            disk_inode_percent: 4.0,
            fd_percent: 5.0,
            load_avg_multiplier: 6.0,
            network_error_rate: 0.7,
            overrides: Vec::new(),
        }
    );
    assert_eq!(
        config.analyzer,
        Analyzer {
            zscore_window: 9,
            zscore_threshold: 8.0,
            ema_alpha: 0.7,
            trend_window: secs(6 * 3600),
            leak_min_observation: secs(5 * 3600),
            leak_r_squared_threshold: 0.4,
        }
    );
    assert_eq!(
        config.recorder,
        Recorder {
            window: secs(540),
            post: secs(480),
            max_size: 7 << 20,
            flush_interval: secs(6),
            max_bundles: 5,
            ..Recorder::default()
        }
    );
    assert_eq!(
        config.alerting,
        Alerting {
            min_interval: secs(1),
            dedup_window: secs(2),
            max_alerts_per_minute: 3,
            max_alerts_per_hour: 4,
            max_alerts_per_hour_overall: 5,
            grouping: Grouping { enabled: true, window: secs(6) },
            escalation: Escalation { enabled: true, warn_to_critical_after: 7, critical_to_emergency_after: secs(480) },
            recovery_enabled: false,
            ..Alerting::default()
        }
    );
}

#[test]
fn invalid_configurations_get_their_problems() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs/invalid");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (configs, expectations): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| path.extension().unwrap() == "toml");
    for path in &expectations {
        assert!(configs.contains(&path.with_extension("toml")), "{} has no configuration", path.display());
    }
    assert!(configs.len() >= 25, "only {} configurations", configs.len());

    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut failures = String::new();
    for path in configs {
        let name = Path::new(path.file_name().unwrap());
        let problems = match parse_bytes(&fs::read(&path).unwrap(), name, &test_env) {
            Ok(_) => "accepted".to_owned(),
            Err(problems) => problems.to_string(),
        };
        let found = format!("{problems}\n");
        if problems == "accepted" || found.contains(SECRET) {
            failures += &format!("\n{}: accepted, or a secret is shown:\n{found}", name.display());
        }
        let beside = path.with_extension("expected");
        if update {
            fs::write(&beside, &found).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            failures += &format!("\n{}: expected\n{expected}found\n{found}", name.display());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn unreadable_files_say_what_to_do() {
    for (path, says) in [
        ("/nonexistent/config.toml", "No such file or directory (os error 2); name an existing file"),
        ("/", "Is a directory (os error 21); name the file in the directory"),
        ("/dev/zero", "/dev/zero: is larger than 1 MiB"),
    ] {
        let problems = load(Path::new(path)).expect_err(path);
        assert_eq!(problems.iter().count(), 1);
        assert!(problems.to_string().contains(says), "{problems}");
    }
}

#[test]
fn secrets_are_read_from_files_each_time() {
    let home = tempfile::tempdir().unwrap();
    let secret = home.path().join("token");
    let path = home.path().join("config.toml");
    let text = "[alerting.webhook]\nenabled = true\nurl = 'file:@/url'\nheaders = { X-Token = 'file:@/token' }\n\
                [alerting.ntfy]\nenabled = true\nurl = 'https://ntfy.sh/a'\ntoken = 'file:@/token'\n";
    fs::write(&path, text.replace('@', &home.path().display().to_string())).unwrap();
    fs::write(home.path().join("url"), "https://example.org/x\r\n").unwrap();
    for content in ["first", "second"] {
        fs::write(&secret, format!("{content}\n")).unwrap();
        let alerting = load(&path).unwrap().alerting;
        let webhook = alerting.webhook.unwrap();
        assert_eq!((webhook.url.reveal(), webhook.headers["X-Token"].reveal()), ("https://example.org/x", content));
        assert_eq!(alerting.ntfy.unwrap().login, Login::Bearer(Secret::new(content.into())));
    }
    // A variable may hold what begins like that, and a variable may be in the path.
    let literal = "alerting.telegram = { enabled = true, bot_token = 'file:${DIR}/bot', chat_id = 1 }\n\
                   alerting.webhook = { enabled = true, url = 'https://example.org', hmac_secret = '${VALUE}' }\n";
    fs::write(home.path().join("bot"), "1:a").unwrap();
    let env = |name: &str| match name {
        "DIR" => Some(home.path().display().to_string()),
        _ => Some("file:/nonexistent/x".into()),
    };
    let alerting = parse(literal, Path::new("t.toml"), &env).unwrap().alerting;
    assert_eq!(alerting.telegram.unwrap().bot_token.reveal(), "1:a");
    assert_eq!(alerting.webhook.unwrap().hmac_secret.unwrap().reveal(), "file:/nonexistent/x");
    // What is no secret is no file.
    assert_eq!(good("agent.hostname = 'file:/etc/hostname'").agent.hostname.as_deref(), Some("file:/etc/hostname"));
}

#[test]
fn a_secret_that_cannot_be_taken_from_its_file_is_told_by_place_and_never_shown() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| fs::write(home.path().join(name), content).unwrap();
    file("empty", b"\n");
    file("binary", b"hunter2\xff");
    file("long", "hunter2".repeat(10_000).as_bytes());
    file("two", b"hunter2\nhunter2\n");
    fs::create_dir(home.path().join("directory")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, home.path().join("pipe"), 0o600.into()).unwrap();
    for (name, says) in [
        ("missing", "No such file or directory (os error 2); have the file there before the start"),
        ("empty", "it is empty; write the secret into it"),
        ("binary", "it holds bytes that are not UTF-8"),
        ("long", "it is larger than 64 KiB"),
        ("directory", "it is no regular file; name one"),
        ("pipe", "it is no regular file; name one"),
        ("two", "holds a control character"),
    ] {
        let path = home.path().join(name).display().to_string();
        for section in ["enabled = true", "enabled = false"] {
            let text = format!(
                "[alerting.telegram]\n{section}\nchat_id = 1\n\n[alerting.webhook]\n{section}\nurl = 'file:{path}'\nx = 1"
            );
            let problems = bad(&text);
            let told = problems.to_string();
            let ours: Vec<_> = problems.iter().filter(|problem| problem.key == "alerting.webhook.url").collect();
            assert!(matches!(ours.as_slice(), [problem] if problem.line == Some(7)), "{told}");
            assert!(told.contains(says) && told.contains(&format!("{path:?}")), "{told}");
            assert!(!told.contains(SECRET), "{told}");
        }
    }
    assert!(bad("alerting.email.password = 'file:token'").to_string().contains("is no absolute path; write file: and one"));
}

#[test]
fn problems_come_by_line() {
    let problems = bad("[thresholds]\nfd_percent = 0\ncpu_percent = 101\nx = 1\n[agent]\nlog_level = 3\n");
    let lines: Vec<_> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(2), Some(3), Some(4), Some(6)]);
}

/// SplitMix64, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from(z ^ (z >> 31)).unwrap_or(usize::MAX) % bound
    }
}

#[test]
fn garbled_files_never_panic_and_never_show_variables() {
    const PARTS: [&[u8]; 16] = [
        b"[",
        b"]",
        b"\"",
        b"'''",
        b"=",
        b"\n",
        b"${",
        b"}",
        b".",
        b"-1",
        b"1e999",
        b"\xff",
        b"\\u",
        b"99999999999999999999",
        b"[[",
        b"nan",
    ];
    let text = uncommented(CONFIG).replace("enabled = false", "enabled = true");
    let name = Path::new("t.toml");
    let mut refused = 0;
    for seed in 0..1500 {
        let mut random = Random(seed);
        let mut bytes = text.clone().into_bytes();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes.truncate(at.max(1)),
                1 => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
                2 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                3 => drop(bytes.splice(at..at, PARTS[random.below(PARTS.len())].iter().copied())),
                _ => {
                    let line = text.lines().nth(random.below(text.lines().count())).unwrap();
                    drop(bytes.splice(at..at, line.bytes().chain([b'\n'])));
                }
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        if let Err(problems) = parse_bytes(&bytes, name, &|_| Some(VARIABLE.into())) {
            refused += 1;
            let shown = problems.to_string();
            assert!(!shown.contains(VARIABLE), "seed {seed}: {shown}");
            assert_eq!(shown.lines().count(), problems.iter().count(), "seed {seed}: a problem takes several lines: {shown}");
        }
    }
    assert!(refused > 500, "only {refused} of 1500 are refused: the mutations are too mild");
}

#[test]
fn deep_templates_are_refused() {
    for (open, close) in [("(", ")"), ("[", "]"), ("not ", ""), ("{}|default(", ")"), ("x if ", " else x")] {
        let template = format!("{{{{ {}message{} }}}}", open.repeat(20_000), close.repeat(20_000));
        bad(&format!("[alerting.templates]\ndefault = '{template}'"));
    }
    let blocks = format!("{}{}", "{% if message %}".repeat(20_000), "{% endif %}".repeat(20_000));
    bad(&format!("[alerting.templates]\ndefault = '{blocks}'"));
}

#[test]
fn deep_and_long_documents_are_refused() {
    for text in ["a.".repeat(100_000) + "b = 1", format!("a = {}", "[".repeat(100_000)), format!("[{}", "a.".repeat(400_000))] {
        bad(&text);
    }
    let many: String = (0..20_000).map(|index| format!("key_{index} = 1\n")).collect();
    assert_eq!(bad(&many).iter().count(), 20_000);
}
