//! `silence`: keeps alerts back for a while, from the command line. Silences lie in the outbox; an agent that runs sees them within
//! seconds, one that starts later when it starts.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};

use super::local_time;
use crate::alerting::outbox;
use crate::cli::{Silence as Options, SilenceAction, SilenceAdd};
use crate::config::Config;
use crate::host;
use crate::model::{Silence, Timestamp, Window};
use crate::notifiers::escape;

/// Makes, lists or removes silences.
///
/// # Errors
/// The configuration is bad, what is asked for makes no silence, or the outbox cannot be read or written.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = super::config_or_defaults(&options.config)?;
    let directory = &config.agent.data_dir;
    let user = "is this root, or the user of the agent?";
    match &options.action {
        SilenceAction::Add(add) => {
            if !directory.is_dir() {
                bail!(
                    "there is no directory {} to keep a silence in; make it, or write [[alerting.silences]] into the configuration",
                    directory.display()
                );
            }
            let silence = silence(add)?;
            outbox::silence_add(directory, &silence).with_context(|| format!("cannot keep the silence; {user}"))?;
            super::print(&format!("{}\n", silence.id));
        }
        SilenceAction::List { all } => super::print(&list(&config, *all).with_context(|| user.to_owned())?),
        SilenceAction::Rm { id } => {
            let removed = outbox::silence_remove(directory, id).with_context(|| format!("cannot remove the silence; {user}"))?;
            if !removed {
                bail!("there is no silence {id:?} on disk; those of the configuration are removed there");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn silence(add: &SilenceAdd) -> anyhow::Result<Silence> {
    let matchers = Silence::parse_matchers(&add.matchers).map_err(|(place, reason)| {
        let what = place.and_then(|place| add.matchers.get(place)).map_or("the matchers".to_owned(), |text| format!("{text:?}"));
        anyhow!("{what} {reason}")
    })?;
    let starts = add.starts.unwrap_or_else(host::now);
    let ends = match (add.ends, add.duration) {
        (Some(ends), _) => ends,
        (None, Some(duration)) => starts.plus(duration),
        (None, None) => bail!("a silence needs an end; write --for TIME or --ends TIME"),
    };
    let window = Window::once(starts, ends).map_err(|reason| anyhow!("the end {reason}"))?;
    let created_by = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    Ok(Silence {
        id: id(starts),
        matchers,
        window,
        comment: add.comment.clone(),
        created_by: created_by.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw())),
    })
}

/// A name that no other silence of this host has.
fn id(at: Timestamp) -> String {
    // Its keys are random.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_i64(at.as_nanos());
    format!("{:012x}", hasher.finish() >> 16)
}

fn list(config: &Config, all: bool) -> anyhow::Result<String> {
    let path = outbox::path(&config.agent.data_dir);
    let made = if path.exists() { outbox::silences(&path)? } else { Vec::new() };
    let now = host::now();
    let mut page = String::new();
    for silence in config.alerting.silences.iter().chain(&made).filter(|silence| all || !silence.is_over(now)) {
        let state = match silence.ends_after(now) {
            Some(end) => format!("until {}", local_time(end)),
            None if silence.is_over(now) => "over".to_owned(),
            None => "not now".to_owned(),
        };
        let matchers: Vec<_> = silence.matchers.iter().map(ToString::to_string).collect();
        let _ = writeln!(page, "{:<14} {state:<25}  {}", escape(&silence.id), escape(&matchers.join(" ")));
        let _ = writeln!(page, "{:<14} {}: {}", "", escape(&silence.created_by), escape(&silence.comment));
    }
    if page.is_empty() {
        page.push_str("there are no silences\n");
    }
    Ok(page)
}
