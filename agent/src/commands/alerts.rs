//! `alerts`: what the outbox holds, read from disk, whether the agent runs or not.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::local_time;
use crate::alerting::outbox::{self, Kept, Listing, Outcome};
use crate::cli::Alerts;
use crate::host;
use crate::model::Timestamp;
use crate::notifiers::escape;

/// Prints alerts, oldest first.
///
/// # Errors
/// The configuration is bad, or the outbox cannot be read.
pub fn run(options: &Alerts) -> anyhow::Result<ExitCode> {
    let config = super::config_or_defaults(&options.config)?;
    let path = outbox::path(&config.agent.data_dir);
    if !path.exists() {
        bail!("there is no {}: no agent has run with this data_dir, or the directory was not there when it did", path.display());
    }
    let since = options.since.map(|since| host::now().minus(since));
    let kept = outbox::list(&path, Listing { open: options.open, since })
        .context("cannot read the outbox; is this root, or the user of the agent?")?;
    let mut page = String::new();
    for kept in &kept {
        if options.json {
            let _ = writeln!(page, "{}", as_json(kept));
        } else {
            as_text(&mut page, kept);
        }
    }
    if kept.is_empty() && !options.json {
        page.push_str(if options.open { "nothing is open\n" } else { "there are no alerts\n" });
    }
    super::print(&page);
    Ok(ExitCode::SUCCESS)
}

fn as_text(page: &mut String, kept: &Kept) {
    let Some(alert) = &kept.alert else {
        let _ = writeln!(page, "{:<19}  alert {} does not match its checksum", "?", kept.seq);
        return;
    };
    let severity = alert.severity.as_str().to_uppercase();
    let _ = writeln!(page, "{}  {severity:<9} {:<8}  {}", local_time(alert.at), alert.status.as_str(), escape(&alert.message));
    let mut notes: Vec<String> = kept.outcomes.iter().map(|(channel, outcome)| format!("{channel} {}", said(outcome))).collect();
    if let Some(silence) = &kept.silenced {
        notes.push(format!("silenced by {silence}"));
    }
    let notes = if notes.is_empty() { "no channel was to be told".to_owned() } else { notes.join(", ") };
    let _ = writeln!(page, "{:<21}{}  {}", "", escape(&alert.id), escape(&notes));
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Waiting => "waits".to_owned(),
        Outcome::Accepted(_) => "accepted".to_owned(),
        Outcome::Refused(why) => format!("given up ({why})"),
    }
}

fn as_json(kept: &Kept) -> Value {
    let rfc3339 = |at: Timestamp| super::rfc3339(at);
    let channels: serde_json::Map<String, Value> = kept
        .outcomes
        .iter()
        .map(|(channel, outcome)| {
            let value = match outcome {
                Outcome::Waiting => json!({ "state": "waiting" }),
                Outcome::Accepted(at) => json!({ "state": "accepted", "at": rfc3339(*at) }),
                Outcome::Refused(why) => json!({ "state": "refused", "reason": why }),
            };
            (channel.clone(), value)
        })
        .collect();
    let Some(alert) = &kept.alert else {
        return json!({ "number": kept.seq, "damaged": true, "channels": channels });
    };
    json!({
        "number": kept.seq,
        "id": alert.id,
        "delivery": alert.delivery,
        "timestamp": rfc3339(alert.at),
        "status": alert.status,
        "severity": alert.severity,
        "metric": alert.metric,
        "value": alert.value,
        "threshold": alert.threshold,
        "message": alert.message,
        "labels": alert.labels,
        "duration_secs": alert.duration.as_secs(),
        "count": alert.count,
        "evidence": alert.evidence,
        "silenced_by": kept.silenced,
        "channels": channels,
    })
}
