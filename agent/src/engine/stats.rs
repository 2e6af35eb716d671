//! What the engine tells about itself.

use crate::model::{Metric, Unit};

/// Counts since the engine began, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Samples taken.
    pub samples: u64,
    /// Samples left out because they were no finite number.
    pub samples_unusable: u64,
    /// Samples left out because there was no room for another series.
    pub samples_refused: u64,
    /// Chunks of old samples given up because the memory budget was used up.
    pub chunks_evicted: u64,
    /// Series now.
    pub series: usize,
    /// Memory of samples now, in bytes.
    pub store_bytes: usize,
    /// Findings of all analyzers.
    pub findings: u64,
    /// Findings that confirmed what another source had told.
    pub witnessed: u64,
    /// Alerts that began an incident.
    pub alerts_firing: u64,
    /// Alerts about incidents that went on.
    pub alerts_updated: u64,
    /// Alerts that ended an incident.
    pub alerts_resolved: u64,
    /// Incidents open now.
    pub incidents_open: usize,
    /// Incidents closed without a word because too many were open.
    pub incidents_crowded_out: u64,
    /// Events that analyzers left out because their state is bounded or the event is unknown.
    pub analyzer_dropped: u64,
}

/// The metrics of [`Stats::values`], in its order.
pub static METRICS: [Metric; 14] = [
    Metric::counter("agent_engine_samples_total", Unit::Count, "Samples that the engine took."),
    Metric::counter("agent_engine_samples_unusable_total", Unit::Count, "Samples left out: not a finite number."),
    Metric::counter("agent_engine_samples_refused_total", Unit::Count, "Samples left out: no room for another series."),
    Metric::counter("agent_engine_chunks_evicted_total", Unit::Count, "Chunks of old samples given up to stay in the budget."),
    Metric::gauge("agent_engine_series", Unit::Count, "Series in the store."),
    Metric::gauge("agent_engine_store_bytes", Unit::Bytes, "Memory of the samples in the store."),
    Metric::counter("agent_engine_findings_total", Unit::Count, "Findings of all analyzers."),
    Metric::counter("agent_engine_witnessed_total", Unit::Count, "Findings that confirmed what another source had told."),
    Metric::counter("agent_alerts_firing_total", Unit::Count, "Alerts that began an incident."),
    Metric::counter("agent_alerts_updated_total", Unit::Count, "Alerts about incidents that went on."),
    Metric::counter("agent_alerts_resolved_total", Unit::Count, "Alerts that ended an incident."),
    Metric::gauge("agent_incidents_open", Unit::Count, "Incidents that are not over."),
    Metric::counter("agent_incidents_crowded_out_total", Unit::Count, "Incidents closed unsaid: too many were open."),
    Metric::counter("agent_engine_events_dropped_total", Unit::Count, "Events left out: bounded state, or an unknown kind."),
];

impl Stats {
    /// Each figure with its metric.
    #[expect(clippy::cast_precision_loss, reason = "counts; beyond 2^53 the last digits don't matter")]
    pub fn values(&self) -> impl Iterator<Item = (&'static Metric, f64)> {
        let values = [
            self.samples,
            self.samples_unusable,
            self.samples_refused,
            self.chunks_evicted,
            self.series as u64,
            self.store_bytes as u64,
            self.findings,
            self.witnessed,
            self.alerts_firing,
            self.alerts_updated,
            self.alerts_resolved,
            self.incidents_open as u64,
            self.incidents_crowded_out,
            self.analyzer_dropped,
        ];
        METRICS.iter().zip(values.map(|value| value as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_stands_with_its_metric() {
        let stats = Stats { samples: 1, store_bytes: 2, alerts_resolved: 3, analyzer_dropped: 4, ..Stats::default() };
        let set: Vec<_> = stats.values().filter(|(_, value)| *value > 0.0).map(|(metric, value)| (metric.name, value)).collect();
        assert_eq!(
            set,
            [
                ("agent_engine_samples_total", 1.0),
                ("agent_engine_store_bytes", 2.0),
                ("agent_alerts_resolved_total", 3.0),
                ("agent_engine_events_dropped_total", 4.0)
            ]
        );
    }
}
