//! The two text formats of Prometheus.
//!
//! Text format 0.0.4: prometheus.io/docs/instrumenting/exposition_formats. OpenMetrics 1.0.0: the OpenMetrics specification, section
//! "Text format". They differ in what a counter's family is called, in units, in what is escaped, and in the last line.

use std::fmt::{self, Write as _};

use bytes::BytesMut;

use crate::model::{Histogram, Kind, Labels, Metric, SeriesKey, Unit};

/// Stands before the name of each metric.
const PREFIX: &str = "sysops_";

/// How the page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format's media type, for the header `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a client with these headers `Accept` likes best (RFC 9110, section 12.5.1). One that likes neither gets [`Format::Text`].
    pub fn negotiate<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut plain) = (0.0_f32, 0.0_f32);
        for range in accept.flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0, None);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim_matches('"').to_owned()),
                    _ => {}
                }
            }
            let is = |wanted: &str| version.as_deref().is_none_or(|version| version == wanted);
            match kind.as_str() {
                "application/openmetrics-text" if is("1.0.0") => open = open.max(quality),
                "text/plain" if is("0.0.4") => plain = plain.max(quality),
                "text/*" | "*/*" => plain = plain.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Text }
    }
}

/// What a series holds.
pub enum Value<'a> {
    /// A gauge or a counter.
    Number(f64),
    /// A histogram.
    Histogram(&'a Histogram),
}

/// Writes the page: all series of one metric in one block, by name and labels.
pub fn render(page: &mut BytesMut, format: Format, mut series: Vec<(&SeriesKey, Value<'_>)>) {
    series.sort_unstable_by(|(a, _), (b, _)| a.metric().name.cmp(b.metric().name).then_with(|| a.labels().cmp(b.labels())));
    let mut last = "";
    for (key, value) in &series {
        let metric = key.metric();
        // A buffer that grows takes everything.
        if last != metric.name {
            let _ = head(page, format, metric);
            last = metric.name;
        }
        let _ = match value {
            Value::Number(number) => {
                line(page, metric, if metric.kind == Kind::Counter { "_total" } else { "" }, key.labels(), None, number)
            }
            Value::Histogram(histogram) => distribution(page, metric, histogram),
        };
    }
    if format == Format::OpenMetrics {
        page.extend_from_slice(b"# EOF\n");
    }
}

/// The name of the metric without what its kind adds to it.
fn family(metric: &Metric) -> &str {
    if metric.kind == Kind::Counter { metric.name.strip_suffix("_total").unwrap_or(metric.name) } else { metric.name }
}

fn head(page: &mut BytesMut, format: Format, metric: &Metric) -> fmt::Result {
    let (family, open) = (family(metric), format == Format::OpenMetrics);
    let suffix = if metric.kind == Kind::Counter && !open { "_total" } else { "" };
    let kind = match metric.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    };
    write!(page, "# HELP {PREFIX}{family}{suffix} ")?;
    // Only OpenMetrics knows a quotation mark in a help text that is escaped.
    escape(page, metric.help, open)?;
    writeln!(page, "\n# TYPE {PREFIX}{family}{suffix} {kind}")?;
    // OpenMetrics wants the unit at the end of the name.
    match unit(metric.unit).filter(|unit| open && family.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'))) {
        Some(unit) => writeln!(page, "# UNIT {PREFIX}{family} {unit}"),
        None => Ok(()),
    }
}

/// The unit's name in a metric's name, if it has one.
const fn unit(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Bytes => Some("bytes"),
        Unit::Seconds => Some("seconds"),
        Unit::Milliseconds => Some("milliseconds"),
        Unit::Percent => Some("percent"),
        Unit::Ratio => Some("ratio"),
        Unit::Celsius => Some("celsius"),
        Unit::Count | Unit::PerSecond | Unit::Boolean => None,
    }
}

/// The buckets, each with all values up to its bound, then sum and count.
fn distribution(page: &mut BytesMut, metric: &Metric, histogram: &Histogram) -> fmt::Result {
    let labels = histogram.series.labels();
    let mut count = 0_u64;
    for (bound, values) in &histogram.buckets {
        count = count.saturating_add(*values);
        line(page, metric, "_bucket", labels, Some(*bound), &count)?;
    }
    line(page, metric, "_sum", labels, None, &histogram.sum)?;
    line(page, metric, "_count", labels, None, &count)
}

fn line(
    page: &mut BytesMut,
    metric: &Metric,
    suffix: &str,
    labels: &Labels,
    bound: Option<f64>,
    value: &dyn fmt::Display,
) -> fmt::Result {
    write!(page, "{PREFIX}{}{suffix}", family(metric))?;
    let mut separator = '{';
    for (name, text) in labels.iter() {
        page.write_char(std::mem::replace(&mut separator, ','))?;
        label_name(page, name)?;
        page.write_str("=\"")?;
        escape(page, text, true)?;
        page.write_char('"')?;
    }
    match bound {
        Some(bound) if bound.is_finite() => write!(page, "{separator}le=\"{bound}\"}}")?,
        Some(_) => write!(page, "{separator}le=\"+Inf\"}}")?,
        None if separator == ',' => page.write_char('}')?,
        None => {}
    }
    writeln!(page, " {value}")
}

/// A label's name; what may not stand in one becomes an underscore.
fn label_name(page: &mut BytesMut, name: &str) -> fmt::Result {
    for (index, character) in name.chars().enumerate() {
        let fits = character == '_' || character.is_ascii_alphabetic() || (index > 0 && character.is_ascii_digit());
        page.write_char(if fits { character } else { '_' })?;
    }
    Ok(())
}

/// A text in which a backslash and a line feed are escaped, and a quotation mark where `quoted`.
fn escape(page: &mut BytesMut, text: &str, quoted: bool) -> fmt::Result {
    let mut rest = text;
    while let Some((plain, tail)) = rest.find(['\\', '\n', '"']).and_then(|at| rest.split_at_checked(at)) {
        page.write_str(plain)?;
        let mut characters = tail.chars();
        match characters.next() {
            Some('\n') => page.write_str("\\n")?,
            Some('"') if !quoted => page.write_char('"')?,
            Some(special) => write!(page, "\\{special}")?,
            None => {}
        }
        rest = characters.as_str();
    }
    page.write_str(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    static USED: Metric = Metric::gauge("memory_used_bytes", Unit::Bytes, "What is \"used\", \\ and\nmore.");
    static READS: Metric = Metric::counter("disk_reads_total", Unit::Count, "Reads.");
    static BUSY: Metric = Metric::counter("disk_busy_seconds_total", Unit::Seconds, "Busy.");
    static LATENCY: Metric = Metric::histogram("block_io_latency_seconds", Unit::Seconds, "Latency.");
    static LOAD: Metric = Metric::gauge("cpu_load_1m", Unit::Count, "Load.");

    fn page(format: Format) -> String {
        let series = |metric, labels| SeriesKey::new(metric, labels);
        let on = |device: &str| Labels::new().with("device", device);
        let histogram = Histogram {
            series: series(&LATENCY, on("sda").with("operation", "read")),
            buckets: vec![(2e-6, 1), (1.048_576, 4), (f64::INFINITY, 2)],
            sum: 0.25,
        };
        let keys = [
            (series(&READS, on("b")), 1e15),
            (series(&USED, Labels::new()), -0.5),
            (series(&READS, on("a \\ \"q\"\nz\u{e4}")), 2.0),
            (series(&BUSY, on("b").with("0-x", "")), 1e-7),
            (series(&LOAD, Labels::new()), 3.0),
        ];
        let mut all: Vec<_> = keys.iter().map(|(key, value)| (key, Value::Number(*value))).collect();
        all.push((&histogram.series, Value::Histogram(&histogram)));
        let mut page = BytesMut::new();
        render(&mut page, format, all);
        String::from_utf8(page.to_vec()).unwrap()
    }

    #[test]
    fn the_text_format() {
        let expected = r#"# HELP sysops_block_io_latency_seconds Latency.
# TYPE sysops_block_io_latency_seconds histogram
sysops_block_io_latency_seconds_bucket{device="sda",operation="read",le="0.000002"} 1
sysops_block_io_latency_seconds_bucket{device="sda",operation="read",le="1.048576"} 5
sysops_block_io_latency_seconds_bucket{device="sda",operation="read",le="+Inf"} 7
sysops_block_io_latency_seconds_sum{device="sda",operation="read"} 0.25
sysops_block_io_latency_seconds_count{device="sda",operation="read"} 7
# HELP sysops_cpu_load_1m Load.
# TYPE sysops_cpu_load_1m gauge
sysops_cpu_load_1m 3
# HELP sysops_disk_busy_seconds_total Busy.
# TYPE sysops_disk_busy_seconds_total counter
sysops_disk_busy_seconds_total{__x="",device="b"} 0.0000001
# HELP sysops_disk_reads_total Reads.
# TYPE sysops_disk_reads_total counter
sysops_disk_reads_total{device="a \\ \"q\"\nzä"} 2
sysops_disk_reads_total{device="b"} 1000000000000000
# HELP sysops_memory_used_bytes What is "used", \\ and\nmore.
# TYPE sysops_memory_used_bytes gauge
sysops_memory_used_bytes -0.5
"#;
        assert_eq!(page(Format::Text), expected);
    }

    #[test]
    fn openmetrics_has_other_heads_units_and_an_end() {
        let heads: Vec<_> = page(Format::OpenMetrics).lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect();
        let expected = [
            "# HELP sysops_block_io_latency_seconds Latency.",
            "# TYPE sysops_block_io_latency_seconds histogram",
            "# UNIT sysops_block_io_latency_seconds seconds",
            "# HELP sysops_cpu_load_1m Load.",
            "# TYPE sysops_cpu_load_1m gauge",
            "# HELP sysops_disk_busy_seconds Busy.",
            "# TYPE sysops_disk_busy_seconds counter",
            "# UNIT sysops_disk_busy_seconds seconds",
            "# HELP sysops_disk_reads Reads.",
            "# TYPE sysops_disk_reads counter",
            r#"# HELP sysops_memory_used_bytes What is \"used\", \\ and\nmore."#,
            "# TYPE sysops_memory_used_bytes gauge",
            "# UNIT sysops_memory_used_bytes bytes",
            "# EOF",
        ];
        assert_eq!(heads, expected);
        let values = |page: String| page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(values(page(Format::OpenMetrics)), values(page(Format::Text)));
        assert!(page(Format::OpenMetrics).ends_with("\n# EOF\n"));
    }

    #[test]
    fn clients_get_what_they_like_best() {
        let negotiate = |accept: &str| Format::negotiate([accept].into_iter());
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in
            [prometheus, "application/openmetrics-text", "text/plain;q=0.3, Application/OpenMetrics-Text; Version=\"1.0.0\""]
        {
            assert_eq!(negotiate(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html",
            "text/plain;version=0.0.4",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nonsense",
            "application/openmetrics-text;q=0.2,text/plain;q=0.5",
            ";;=,=;q",
        ] {
            assert_eq!(negotiate(accept), Format::Text, "{accept}");
        }
        assert_eq!(Format::negotiate(std::iter::empty()), Format::Text);
    }
}
