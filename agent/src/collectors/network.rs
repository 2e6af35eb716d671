//! Network interfaces, and the host's TCP and sockets in total: `/proc/net/{dev,snmp,netstat,sockstat}`, described in
//! proc_pid_net(5) and Documentation/networking/snmp_counter.rst, and `/sys/class/net`.
//!
//! Connections are not walked one by one: on a busy host that costs more than everything else together. The exception is a burst of
//! segments that are sent again; see `retransmits`.

mod retransmits;

use self::retransmits::Retransmits;
use super::entities::Entities;
use super::interval::Counters;
use super::text::{fields, lossy, number};
use super::{Batch, Collector, Expected, Row, keys, metrics, plain};
use crate::host::{Host, ProcFile, ReadError, Text};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "network",
    summary: "interfaces, TCP, sockets",
    source: "/proc/1/net/{dev,snmp,netstat,sockstat}, /sys/class/net",
    interval: |config| config.collector.network_interval,
    build: |config, host| Box::new(Network::new(host, config.ebpf.tcp_retransmit_burst)),
    metrics: METRICS,
};

metrics! {
    counter RX_BYTES: Bytes = "network_receive_bytes_total", "Bytes received (/proc/net/dev).";
    counter RX_PACKETS: Count = "network_receive_packets_total", "Packets received (/proc/net/dev).";
    counter RX_ERRORS: Count = "network_receive_errors_total", "Packets received with errors (/proc/net/dev).";
    counter RX_DROPS: Count = "network_receive_drops_total", "Packets received and dropped (/proc/net/dev).";
    counter TX_BYTES: Bytes = "network_transmit_bytes_total", "Bytes sent (/proc/net/dev).";
    counter TX_PACKETS: Count = "network_transmit_packets_total", "Packets sent (/proc/net/dev).";
    counter TX_ERRORS: Count = "network_transmit_errors_total", "Packets that could not be sent (/proc/net/dev).";
    counter TX_DROPS: Count = "network_transmit_drops_total", "Packets dropped on the way out (/proc/net/dev).";
    gauge ERROR_RATIO: Ratio = "network_error_ratio",
        "Errors and drops by packet since the last run, both ways; absent below 100 packets.";
    counter CARRIER_CHANGES: Count = "network_carrier_changes_total",
        "How often the link of a hardware interface went up or down (/sys/class/net/*/carrier_changes).";
    gauge CARRIER: Boolean = "network_carrier",
        "Whether a hardware interface that is up has a link (/sys/class/net/*/carrier).";
    counter RETRANSMITS: Count = "network_tcp_retransmits_total", "TCP segments sent again (/proc/net/snmp RetransSegs).";
    gauge RETRANSMIT_RATIO: Ratio = "network_tcp_retransmit_ratio",
        "TCP segments sent again by segments sent since the last run; absent below 100 segments (/proc/net/snmp).";
    counter SEGMENTS_IN: Count = "network_tcp_segments_received_total", "TCP segments received (/proc/net/snmp InSegs).";
    counter SEGMENTS_OUT: Count = "network_tcp_segments_sent_total",
        "TCP segments sent, without those sent again (/proc/net/snmp OutSegs).";
    counter ACTIVE_OPENS: Count = "network_tcp_active_opens_total", "Connections opened from here (/proc/net/snmp ActiveOpens).";
    counter PASSIVE_OPENS: Count = "network_tcp_passive_opens_total", "Connections accepted (/proc/net/snmp PassiveOpens).";
    counter LISTEN_OVERFLOWS: Count = "network_tcp_listen_overflows_total",
        "Connections refused because the queue of a listener was full (/proc/net/netstat ListenOverflows).";
    counter LISTEN_DROPS: Count = "network_tcp_listen_drops_total",
        "Connections refused by listeners for any reason (/proc/net/netstat ListenDrops).";
    gauge ESTABLISHED: Count = "network_tcp_established", "TCP connections in ESTABLISHED or CLOSE-WAIT (/proc/net/snmp CurrEstab).";
    gauge TIME_WAIT: Count = "network_tcp_time_wait", "TCP connections in TIME-WAIT (/proc/net/sockstat tw).";
    gauge ORPHANS: Count = "network_tcp_orphans", "TCP sockets that no process holds (/proc/net/sockstat).";
    gauge TCP_MEMORY: Bytes = "network_tcp_memory_bytes", "Memory in buffers of TCP sockets (/proc/net/sockstat mem).";
    gauge SOCKETS: Count = "network_sockets_used", "Sockets of all kinds (/proc/net/sockstat).";
}

/// Fewer packets than this in an interval make no ratio: one drop among three would be a third.
const MIN_PACKETS: u64 = 100;

struct Network {
    host: Host,
    dev: ProcFile,
    interfaces: Entities<Vec<u8>, Interface>,
    snmp: ProcFile,
    netstat: ProcFile,
    sockstat: ProcFile,
    page_size: u64,
    /// Columns of `/proc/net/snmp`, line `Tcp:`.
    tcp: [(&'static [u8], SeriesKey); 6],
    /// Columns of `/proc/net/netstat`, line `TcpExt:`.
    tcp_ext: [(&'static [u8], SeriesKey); 2],
    /// Sockets, orphans, connections in TIME-WAIT, memory.
    sockets: [SeriesKey; 4],
    retransmits: Retransmits,
}

struct Interface {
    /// Packets, errors and drops, both ways together.
    traffic: Counters<2>,
    series: [SeriesKey; 8],
    error_ratio: SeriesKey,
    link: Option<Link>,
}

/// The link of an interface with hardware behind it.
struct Link {
    carrier: ProcFile,
    carrier_changes: ProcFile,
    series: [SeriesKey; 2],
}

impl Interface {
    fn new(host: &Host, name: &[u8]) -> Self {
        let name = lossy(name);
        let labels = Labels::new().with("interface", name.clone());
        let directory = host.sysfs("class/net").join(&name);
        let link = directory.join("device").exists().then(|| Link {
            carrier: ProcFile::new(directory.join("carrier")),
            carrier_changes: ProcFile::new(directory.join("carrier_changes")),
            series: keys([&CARRIER, &CARRIER_CHANGES], &labels),
        });
        let metrics = [&RX_BYTES, &RX_PACKETS, &RX_ERRORS, &RX_DROPS, &TX_BYTES, &TX_PACKETS, &TX_ERRORS, &TX_DROPS];
        Self {
            traffic: Counters::default(),
            series: keys(metrics, &labels),
            error_ratio: SeriesKey::new(&ERROR_RATIO, labels),
            link,
        }
    }

    fn emit(&mut self, batch: &mut Batch, counters: [u64; 8]) {
        for (series, value) in self.series.iter().zip(counters) {
            batch.push_count(series, value);
        }
        let [_, rx_packets, rx_errors, rx_drops, _, tx_packets, tx_errors, tx_drops] = counters;
        let failed = [rx_errors, rx_drops, tx_errors, tx_drops].into_iter().fold(0, u64::saturating_add);
        let traffic = [rx_packets.saturating_add(tx_packets), failed];
        if let Some(growth) = self.traffic.advance(batch.at(), traffic) {
            let [packets, failed] = growth.by;
            if packets.saturating_add(failed) >= MIN_PACKETS {
                // Some drivers count what failed as packets too, others don't.
                batch.push(&self.error_ratio, failed as f64 / packets.max(failed) as f64);
            }
        }
        if let Some(Link { carrier, carrier_changes, series }) = &mut self.link {
            // `carrier` cannot be read of an interface that is down, and `carrier_changes` is younger than 3.15.
            for (file, series) in [carrier, carrier_changes].into_iter().zip(series) {
                if let Ok(text) = file.read() {
                    batch.lines(text, |batch, line| {
                        batch.push_count(series, number(line).ok_or("a number")?);
                        Ok(())
                    });
                }
            }
        }
    }
}

impl Network {
    fn new(host: &Host, burst: u32) -> Self {
        Self {
            host: host.clone(),
            dev: ProcFile::new(host.procfs_of_init("net/dev")),
            interfaces: Entities::default(),
            snmp: ProcFile::new(host.procfs_of_init("net/snmp")),
            netstat: ProcFile::new(host.procfs_of_init("net/netstat")),
            sockstat: ProcFile::new(host.procfs_of_init("net/sockstat")),
            page_size: rustix::param::page_size() as u64,
            tcp: [
                (b"RetransSegs", plain(&RETRANSMITS)),
                (b"InSegs", plain(&SEGMENTS_IN)),
                (b"OutSegs", plain(&SEGMENTS_OUT)),
                (b"ActiveOpens", plain(&ACTIVE_OPENS)),
                (b"PassiveOpens", plain(&PASSIVE_OPENS)),
                (b"CurrEstab", plain(&ESTABLISHED)),
            ],
            tcp_ext: [(b"ListenOverflows", plain(&LISTEN_OVERFLOWS)), (b"ListenDrops", plain(&LISTEN_DROPS))],
            sockets: [plain(&SOCKETS), plain(&ORPHANS), plain(&TIME_WAIT), plain(&TCP_MEMORY)],
            retransmits: Retransmits::new(host, burst),
        }
    }

    fn collect_interfaces(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { host, dev, interfaces, .. } = self;
        let mut header = 2;
        batch.lines(dev.read()?, |batch, line| {
            if header > 0 {
                header -= 1;
                return Ok(());
            }
            let (name, counters) = parse_dev_line(line)?;
            interfaces.see(name, || Interface::new(host, name), |interface| interface.emit(batch, counters));
            Ok(())
        });
        interfaces.end_run();
        Ok(())
    }

    fn collect_sockets(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { sockstat, sockets: [sockets, orphans, time_wait, memory], page_size, .. } = self;
        batch.lines(sockstat.read()?, |batch, line| {
            let (protocol, values) = split_name(line)?;
            let value = |name| sockstat_value(values, name).ok_or("names, each with a number");
            match protocol {
                b"sockets" => batch.push_count(sockets, value(b"used")?),
                b"TCP" => {
                    batch.push_count(orphans, value(b"orphan")?);
                    batch.push_count(time_wait, value(b"tw")?);
                    batch.push_count(memory, value(b"mem")?.saturating_mul(*page_size));
                }
                _ => {}
            }
            Ok(())
        });
        Ok(())
    }
}

impl Collector for Network {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let result = self.collect_all(batch);
        self.retransmits.judge(batch);
        result
    }
}

impl Network {
    fn collect_all(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let results = [
            self.collect_interfaces(batch),
            self.snmp.read().map(|text| emit_columns(batch, text, b"Tcp", &self.tcp)),
            self.netstat.read().map(|text| emit_columns(batch, text, b"TcpExt", &self.tcp_ext)),
            self.collect_sockets(batch),
        ];
        results.into_iter().collect()
    }
}

/// A name before a colon, and what follows it.
fn split_name(line: &[u8]) -> Result<(&[u8], &[u8]), Expected> {
    let colon = line.iter().rposition(|&byte| byte == b':').ok_or("a name with a colon")?;
    match line.split_at_checked(colon) {
        Some((name, [_, rest @ ..])) if !name.trim_ascii().is_empty() => Ok((name.trim_ascii(), rest)),
        _ => Err("a name with a colon"),
    }
}

/// A line of `/proc/net/dev`: the name, which may hold colons itself (`eth0:1`) and may touch the first number (3.x); then
/// bytes, packets, errors and drops received and sent.
fn parse_dev_line(line: &[u8]) -> Result<(&[u8], [u64; 8]), Expected> {
    let (name, counters) = split_name(line)?;
    let [rx_bytes, rx_packets, rx_errors, rx_drops, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_drops] =
        fields(counters).numbers().ok_or("twelve counters")?;
    Ok((name, [rx_bytes, rx_packets, rx_errors, rx_drops, tx_bytes, tx_packets, tx_errors, tx_drops]))
}

/// The number behind `name` in a line like `TCP: inuse 5 orphan 0 tw 12`.
fn sockstat_value(values: &[u8], name: &[u8]) -> Option<u64> {
    let mut rest = fields(values);
    while let (Some(key), value) = (rest.next(), rest.number()) {
        if key == name {
            return value;
        }
    }
    None
}

/// Emits columns of a file that pairs a line of names with a line of numbers, both with the same word before the colon.
fn emit_columns(batch: &mut Batch, text: Text<'_>, protocol: &[u8], columns: &[(&'static [u8], SeriesKey)]) {
    let mut names = None;
    batch.lines(text, |batch, line| {
        let (word, rest) = split_name(line)?;
        if word != protocol {
            return Ok(());
        }
        let Some(header) = names.take() else {
            names = Some(fields(rest));
            return Ok(());
        };
        let values = fields(rest);
        if header.clone().count() != values.clone().count() {
            return Err("as many numbers as the line before has names");
        }
        for (name, value) in header.zip(values) {
            if let Some((_, series)) = columns.iter().find(|(known, _)| *known == name) {
                batch.push_count(series, number(value).ok_or("a number in each column that is used")?);
            }
        }
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::collectors::text::mangle;
    use crate::config::HostRoots;

    const ETH0: &[u8] = b"  eth0: 205282788    8022    1    2    0     0          0         0   491470    4744    3    4    0     0       0          0";

    #[test]
    fn dev_lines_of_several_kernels_are_read() {
        assert_eq!(parse_dev_line(ETH0), Ok((&b"eth0"[..], [205_282_788, 8022, 1, 2, 491_470, 4744, 3, 4])));
        // Kernels up to 3.x leave no blank before a long number.
        let tight = b"  eno1:3928134709 1 0 0 0 0 0 0 5 6 0 0 0 0 0 0";
        assert_eq!(parse_dev_line(tight), Ok((&b"eno1"[..], [3_928_134_709, 1, 0, 0, 5, 6, 0, 0])));
        let alias = b"eth0:1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0";
        assert_eq!(parse_dev_line(alias), Ok((&b"eth0:1"[..], [1, 2, 3, 4, 5, 6, 7, 8])));
        assert_eq!(parse_dev_line(b"eth0: 1 2 3"), Err("twelve counters"));
        assert_eq!(parse_dev_line(b": 1 2 3"), Err("a name with a colon"));
    }

    #[test]
    fn sockstat_values_are_found_by_name() {
        let values = b" inuse 5 orphan 1 tw 12 alloc 8 mem 3";
        assert_eq!(sockstat_value(values, b"tw"), Some(12));
        assert_eq!(sockstat_value(values, b"inuse"), Some(5));
        assert_eq!(sockstat_value(values, b"used"), None);
        assert_eq!(sockstat_value(b" tw x", b"tw"), None);
    }

    #[test]
    fn columns_are_found_by_name() {
        let columns = [(&b"RetransSegs"[..], plain(&RETRANSMITS)), (b"InSegs", plain(&SEGMENTS_IN))];
        let run = |text: &[u8]| {
            let mut batch = Batch::new(Instant::now());
            emit_columns(&mut batch, Text { path: Path::new("snmp"), bytes: text }, b"Tcp", &columns);
            (
                batch.samples.iter().map(|sample| format!("{} {}", sample.series, sample.value)).collect::<Vec<_>>(),
                batch.first_skip,
            )
        };
        let text = b"Ip: InSegs\nIp: 99\nTcp: MaxConn InSegs OutSegs RetransSegs\nTcp: -1 7934 4691 1\n";
        let expected = ["network_tcp_segments_received_total 7934", "network_tcp_retransmits_total 1"];
        assert_eq!(run(text), (expected.map(String::from).to_vec(), None));

        let (samples, skip) = run(b"Tcp: MaxConn InSegs\nTcp: -1\n");
        assert!(samples.is_empty(), "a column that is missing would shift the others");
        assert_eq!(skip.unwrap(), "snmp line 2: expected as many numbers as the line before has names");
    }

    #[test]
    fn the_error_ratio_needs_packets_and_forgives_a_reset() {
        let host = Host::new(HostRoots { sysfs: "/nonexistent".into(), ..HostRoots::default() });
        let mut interface = Interface::new(&host, b"eth0");
        let start = Instant::now();
        let mut ratio_after = |secs, packets, errors| {
            let mut batch = Batch::new(start + Duration::from_secs(secs));
            interface.emit(&mut batch, [0, packets, errors, 0, 0, 0, 0, 0]);
            batch.samples.iter().find(|sample| sample.series.metric() == &ERROR_RATIO).map(|sample| sample.value)
        };
        assert_eq!(ratio_after(0, 1000, 500), None, "the first run has nothing to compare with");
        assert_eq!(ratio_after(10, 1200, 502), Some(0.01));
        assert_eq!(ratio_after(20, 1203, 503), None, "three packets are too few");
        assert_eq!(ratio_after(30, 5, 0), None, "the driver was loaded again");
        assert_eq!(ratio_after(40, 5, 300), Some(1.0), "nothing gets through");
    }

    #[test]
    fn no_input_panics() {
        mangle(ETH0, |line| {
            let _ = parse_dev_line(line);
        });
        mangle(b" inuse 5 orphan 1 tw 12 alloc 8 mem 3", |values| {
            let _ = sockstat_value(values, b"mem");
        });
        let columns = [(&b"RetransSegs"[..], plain(&RETRANSMITS))];
        mangle(b"Tcp: MaxConn RetransSegs\nTcp: -1 7934\n", |bytes| {
            emit_columns(&mut Batch::new(Instant::now()), Text { path: Path::new("snmp"), bytes }, b"Tcp", &columns);
        });
    }
}
