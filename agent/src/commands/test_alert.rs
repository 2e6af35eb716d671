//! `test-alert`: a sample through the real path of each channel, and what the service said.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;

use crate::alerting::{Outbox, Restored, Router};
use crate::cli::TestAlert;
use crate::config::{Alerting, Grouping};
use crate::host;
use crate::model::{Alert, Evidence, Labels, Severities, Severity, Status};
use crate::notifiers::{self, Channel, escape};
use crate::runtime;

/// How long all channels together are waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends the sample, and its end where that is asked for.
///
/// # Errors
/// The configuration is bad, or it enables no such channel.
pub fn run(options: &TestAlert) -> anyhow::Result<ExitCode> {
    let config = super::config(&options.config)?;
    let (channels, errors) = notifiers::build(&config);
    let chosen = |name: &str| options.channel.is_empty() || options.channel.iter().any(|channel| channel == name);
    let broken: Vec<_> = errors.iter().filter(|error| chosen(error.channel)).collect();
    let enabled: Vec<_> = channels.iter().filter(|channel| !channel.is_screen).map(|channel| channel.name).collect();
    let known = |name: &&String| enabled.contains(&name.as_str()) || errors.iter().any(|error| error.channel == name.as_str());
    if let Some(unknown) = options.channel.iter().find(|name| !known(name)) {
        bail!("the configuration enables no channel {unknown:?}; it enables {}", listed(&enabled));
    }
    let channels: Vec<Channel> = channels
        .into_iter()
        .filter(|channel| !channel.is_screen && chosen(channel.name))
        // Which severities it is for decides what it gets, not whether it works.
        .map(|channel| Channel { severities: Severities::from(Severity::Info), ..channel })
        .collect();
    if channels.is_empty() && broken.is_empty() {
        bail!("the configuration enables no channel; docs/alerting.md says how to set one up");
    }
    let hostname = runtime::hostname(&config);
    let mut page = String::new();
    let mut has_failed = !broken.is_empty();
    for error in broken {
        let _ = writeln!(page, "{:<12} {}", error.channel, escape(&error.to_string()));
    }
    let outcomes = runtime::block_on(async {
        let sender = runtime::sender(&hostname);
        let policy = Alerting { grouping: Grouping { enabled: false, ..Grouping::default() }, ..Alerting::default() };
        let mut router = Router::new(channels, sender, &policy, Outbox::in_memory(), Restored::default());
        let couriers: Vec<_> = router.couriers().map(|courier| tokio::spawn(async move { courier.run().await })).collect();
        let alert = sample(&hostname, options.severity);
        router.dispatch(alert.at, alert.clone());
        if options.resolve {
            let over = Alert { status: Status::Resolved, delivery: format!("{}-2", alert.id), ..alert };
            router.dispatch(over.at, over);
        }
        router.flush(LIMIT).await;
        couriers.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(router.outcomes().collect::<Vec<_>>())
    })?;
    for (name, outcome) in outcomes {
        has_failed |= !matches!(outcome, Some(Ok(_)));
        let said = match outcome {
            Some(Ok(answer)) if answer.is_empty() => "accepted".to_owned(),
            Some(Ok(answer)) => format!("accepted: {answer}"),
            Some(Err(why)) => format!("NOT accepted: {why}"),
            None => format!("NOT accepted: no answer within {} s", LIMIT.as_secs()),
        };
        let _ = writeln!(page, "{name:<12} {}", escape(&said));
    }
    super::print(&page);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// An alert that says that it is none.
fn sample(hostname: &str, severity: Severity) -> Alert {
    let at = host::now();
    let id = format!("test-{:x}", at.as_nanos());
    let mut evidence = Evidence::new();
    evidence.insert("sent_by".into(), format!("sysops-agent {} test-alert", env!("CARGO_PKG_VERSION")).into());
    Alert {
        delivery: format!("{id}-1"),
        id,
        at,
        status: Status::Firing,
        severity,
        metric: "agent_test_alert".into(),
        value: 1.0,
        threshold: None,
        message: format!("This is a test of {hostname}'s alerts: nothing is wrong"),
        labels: Labels::new().with("test", "true"),
        duration: Duration::ZERO,
        count: 1,
        evidence,
    }
}
