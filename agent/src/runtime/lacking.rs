//! What a configuration asks for and this version does not have.

use crate::collectors::{COLLECTORS, running};
use crate::config::Config;
use crate::model::Metric;
use crate::{alerting, engine, probes};

/// A sentence about each, in the order of the configuration file.
pub fn lacking(config: &Config) -> Vec<String> {
    let unknown = config.thresholds.overrides.iter().map(|other| &other.metric).filter(|metric| !is_known(metric));
    unknown
        .map(|name| format!("thresholds.overrides: there is no metric {name:?}; docs/metrics.md lists those there are"))
        .collect()
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
}
