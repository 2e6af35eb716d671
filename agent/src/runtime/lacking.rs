//! What a configuration asks for by a key that is off by default, and this version does not have.

use crate::collectors::{COLLECTORS, running};
use crate::config::Config;
use crate::model::Metric;
use crate::{alerting, engine, notifiers, probes};

/// A sentence about each, in the order of the configuration file.
pub fn lacking(config: &Config) -> Vec<String> {
    let mut lacking = Vec::new();
    let mut note = |asked: bool, sentence: &str| {
        if asked {
            lacking.push(sentence.to_owned());
        }
    };
    for other in config.thresholds.overrides.iter().filter(|other| !is_known(&other.metric)) {
        let name = &other.metric;
        note(true, &format!("thresholds.overrides: there is no metric {name:?}; docs/metrics.md lists those there are"));
    }
    let channels = notifiers::unavailable(config).into_iter();
    lacking.extend(channels.map(|name| format!("alerting.{name} is enabled, but this version has no such channel yet")));
    lacking
}

/// Whether something measures a metric of this name.
fn is_known(name: &str) -> bool {
    let collected = COLLECTORS.iter().flat_map(|row| row.metrics).chain(running::METRICS).copied();
    let counted = [probes::METRICS, &engine::METRICS, alerting::METRICS].into_iter().flatten();
    collected.chain(counted).any(|metric: &Metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn defaults_ask_for_nothing_that_is_not_there() {
        assert_eq!(lacking(&Config::default()), [""; 0]);
    }

    #[test]
    fn a_limit_on_an_unknown_metric_is_told() {
        let overrides = "{ metric = 'disk_usage_percent' }, { metric = 'agent_alerts_queued' }, { metric = 'disk_usage' }";
        let text = format!("[thresholds]\noverrides = [{overrides}]");
        let config = crate::config::parse(&text, Path::new("t.toml"), &|_| None).unwrap();
        let said = ["thresholds.overrides: there is no metric \"disk_usage\"; docs/metrics.md lists those there are"];
        assert_eq!(lacking(&config), said);
    }

    #[test]
    fn each_wish_is_answered() {
        let text = "[alerting.templates]\nwebhook = \"x\"\n";
        let config = crate::config::parse(text, Path::new("t.toml"), &|_| None).unwrap();
        let lacking = lacking(&config);
        let keys = ["alerting.templates "];
        let text = "[alerting.slack]\nenabled = true\nwebhook_url = \"https://x\"\n";
        let config = crate::config::parse(text, Path::new("t.toml"), &|_| None).unwrap();
        let lacking = lacking(&config);
        let keys = ["alerting.slack "];
        assert_eq!(lacking.len(), keys.len());
        assert!(lacking.iter().zip(keys).all(|(sentence, key)| sentence.starts_with(key)), "{lacking:?}");
    }
}
