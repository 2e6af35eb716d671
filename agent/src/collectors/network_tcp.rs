//! TCP sockets by state (tcp(7)), in the network namespace of PID 1.
//!
//! Not here: established connections and those in TIME-WAIT, of which a busy host has very many. The kernel keeps count of
//! them, and `network` reads that. How the others are counted is described at [`Host::tcp_states`].

use std::time::Duration;

use super::{Batch, Collector, Row, metrics};
use crate::host::{Host, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "network_tcp",
    summary: "TCP sockets by state",
    source: "sock_diag, or /proc/1/net/{tcp,tcp6}",
    interval: |config| config.collector.network_interval.max(INTERVAL),
    build: |_, host| Box::new(Tcp::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge SOCKETS: Count = "network_tcp_connections",
        "TCP sockets by state, except ESTABLISHED and TIME-WAIT, which the kernel counts; up to 200,000 are walked (tcp(7), sock_diag(7)).";
}

/// Sockets are walked, which is not done more often than this.
const INTERVAL: Duration = Duration::from_secs(30);

/// The kernel may load a module for the first question.
const DEADLINE: Duration = Duration::from_secs(2);

/// States and their numbers (include/net/tcp_states.h). The kernel shows a request that has no socket yet as `syn_recv`.
const STATES: [(&str, &[usize]); 8] = [
    ("syn_sent", &[2]),
    ("syn_recv", &[3, 12]),
    ("fin_wait1", &[4]),
    ("fin_wait2", &[5]),
    ("close_wait", &[8]),
    ("last_ack", &[9]),
    ("listen", &[10]),
    ("closing", &[11]),
];

struct Tcp {
    host: Host,
    series: [SeriesKey; STATES.len()],
}

impl Tcp {
    fn new(host: &Host) -> Self {
        let series = STATES.map(|(state, _)| SeriesKey::new(&SOCKETS, Labels::new().with("state", state)));
        Self { host: host.clone(), series }
    }
}

impl Collector for Tcp {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let host = self.host.clone();
        let answer = self.host.isolate().call("the table of TCP sockets", DEADLINE, move || host.tcp_states());
        let states = match answer {
            Ok(Ok(states)) => states,
            Ok(Err(cause)) => return Err(ReadError { path: self.host.procfs_of_init("net/tcp"), cause }),
            Err(stuck) => {
                batch.skip(|| stuck.to_string());
                return Ok(());
            }
        };
        for (series, (_, numbers)) in self.series.iter().zip(STATES) {
            batch.push_count(series, numbers.iter().map(|number| states.count(*number)).sum());
        }
        if states.cut {
            batch.skip(|| "there are more TCP sockets than are counted: the counts by state are lower bounds".to_owned());
        }
        Ok(())
    }
}
