//! A line of a recording as an observation.

use super::names::Names;
use super::{labels, time};
use crate::model::{KernelEvent, LogRecord, Observation, Recorded, Sample, Samples, SourceState, Timestamp};

/// The row of the kernel's log.
const KERNEL_LOG: &str = "kmsg";

/// The observation in a line, and its time; else what is wrong with it.
pub(super) fn parse(line: &str, names: &mut Names) -> Result<(Timestamp, Observation), String> {
    let Recorded { at, samples, event, log, source } =
        serde_json::from_str(line).map_err(|error| format!("it is no observation: {error}"))?;
    let at = time::parse(&at).ok_or_else(|| format!("{at:?} is no time in RFC 3339"))?;
    let observation = match (samples, event, log, source) {
        (Some(samples), None, None, None) => {
            let mut values = Vec::with_capacity(samples.values.len());
            for sample in samples.values {
                let series = names.series(&sample.metric, sample.labels)?;
                values.push(Sample { series, value: sample.value.unwrap_or(f64::NAN) });
            }
            Observation::Samples(Samples { collector: names.word(&samples.collector)?, values })
        }
        (None, Some(event), None, None) => Observation::Event(Box::new(KernelEvent {
            metric: names.word(&event.metric)?,
            labels: labels(event.labels),
            value: event.value,
            threshold: event.threshold,
            count: event.count,
            message: event.message,
            source: names.word(&event.source)?,
            evidence: event.evidence,
        })),
        (None, None, Some(log), None) => Observation::Log(LogRecord {
            source: names.word(&log.source)?,
            is_kernel: log.is_kernel.unwrap_or(log.source == KERNEL_LOG),
            level: log.level,
            written: log
                .written
                .map(|at| time::parse(&at).ok_or_else(|| format!("{at:?} is no time in RFC 3339")))
                .transpose()?,
            text: log.text,
            facts: log.facts,
        }),
        (None, None, None, Some(source)) => {
            Observation::Source(SourceState { signal: names.word(&source.signal)?, probed: source.probed })
        }
        _ => return Err("it must have exactly one of samples, event, log and source".into()),
    };
    Ok((at, observation))
}
