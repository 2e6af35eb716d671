//! Processes whose descriptors grow, and of which kind those are.
//!
//! Looking at descriptors one by one costs more than all else that is known of a process, so that it is done for few: for those that
//! have grown most since they were first seen. A leak takes an hour to be called one; by then its process is among them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{FDS_BY_KIND, FDS_BY_PREFIX};
use crate::collectors::Batch;
use crate::host::Host;
use crate::model::{Labels, Metric, SeriesKey};

/// Most processes of a run whose descriptors are looked at, and least growth that brings a process among them.
const MOST: usize = 4;
const LEAST_GROWTH: u64 = 16;
/// Looks at a process after which its peers are asked for again: the kernel writes its whole table of connections for that.
const PEER_LOOKS: u32 = 10;
/// Series of a process that are kept at hand. Directories come and go.
const MOST_SERIES: usize = 64;
/// How long looking at the descriptors of a process may take.
const DEADLINE: Duration = Duration::from_millis(100);

/// The processes of one run that have grown most, by how much.
#[derive(Debug, Default)]
pub struct Growing(Vec<(u64, u32)>);

impl Growing {
    /// Notes how many descriptors a process has; `first` is how many it had when it was first seen.
    pub fn note(&mut self, pid: u32, first: &mut Option<u64>, open: Option<u64>) {
        let Some(open) = open else { return };
        let grown = open.saturating_sub(*first.get_or_insert(open));
        if grown < LEAST_GROWTH {
            return;
        }
        self.0.push((grown, pid));
        self.0.sort_unstable_by(|(a, a_pid), (b, b_pid)| b.cmp(a).then(a_pid.cmp(b_pid)));
        self.0.truncate(MOST);
    }

    /// Those processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|(_, pid)| *pid)
    }
}

/// What is kept of one of them.
#[derive(Debug, Default)]
pub struct Kinds {
    series: BTreeMap<(&'static str, String), SeriesKey>,
    looks: u32,
    /// The commonest peer, and how many sockets lead to it.
    peer: Option<(String, u64)>,
}

impl Kinds {
    /// Tells the kinds of a process' descriptors, and what most of them lead to; nothing of one that has too many to look at.
    pub fn tell(&mut self, batch: &mut Batch, host: &Host, pid: u32, labels: &Labels) {
        let asks_peers = self.looks.is_multiple_of(PEER_LOOKS);
        self.looks = self.looks.wrapping_add(1);
        let asked = host.clone();
        let look = move || {
            let open = asked.process(pid).descriptors()?;
            let are_sockets = open.commonest_kind().is_some_and(|(kind, _)| kind == "socket");
            let mut peers = BTreeMap::<String, u64>::new();
            if asks_peers && are_sockets {
                let all = asked.tcp_peers(pid, &open.sockets);
                all.into_iter().for_each(|peer| *peers.entry(peer.to_string()).or_default() += 1);
            }
            Some((open, peers.into_iter().max_by_key(|(_, count)| *count)))
        };
        let (open, peer) = match host.isolate().call(&format!("the descriptors of process {pid}"), DEADLINE, look) {
            Ok(Some(found)) => found,
            // It is gone, or is not ours to look at.
            Ok(None) => return,
            Err(stuck) => return batch.skip(|| stuck.to_string()),
        };
        if asks_peers {
            self.peer = peer;
        }
        if open.cut {
            return;
        }
        if self.series.len() > MOST_SERIES {
            self.series.clear();
        }
        for (kind, count) in &open.kinds {
            self.push(batch, &FDS_BY_KIND, labels, ("kind", kind), *count);
        }
        let directory = open.commonest_directory().map(|(directory, count)| (directory.to_owned(), count));
        for (prefix, count) in directory.into_iter().chain(self.peer.clone()) {
            self.push(batch, &FDS_BY_PREFIX, labels, ("prefix", &prefix), count);
        }
    }

    fn push(
        &mut self,
        batch: &mut Batch,
        metric: &'static Metric,
        labels: &Labels,
        (label, of): (&'static str, &str),
        count: u64,
    ) {
        let make = || SeriesKey::new(metric, labels.clone().with(label, of));
        batch.push_count(self.series.entry((metric.name, of.to_owned())).or_insert_with(make), count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::HostRoots;

    #[test]
    fn those_that_grew_most_are_looked_at() {
        let mut first: Vec<Option<u64>> = vec![None; 20];
        for (round, expected) in [(0, &[][..]), (1, &[19, 18, 17, 16])] {
            let mut growing = Growing::default();
            for (first, pid) in first.iter_mut().zip(0..) {
                growing.note(pid, first, Some(7 + round * u64::from(pid) * 2));
                growing.note(99, &mut None, None);
            }
            assert_eq!(growing.pids().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn descriptors_are_told_by_kind_and_place() {
        let directory = tempfile::TempDir::new().unwrap();
        let held: Vec<_> = (0..40).map(|n| std::fs::File::create(directory.path().join(n.to_string())).unwrap()).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let host = Host::new(HostRoots::default());
        // A busy machine may miss the deadline.
        let until_told = |series: &str, least: f64| {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let mut batch = Batch::new(Instant::now());
                Kinds::default().tell(&mut batch, &host, std::process::id(), &Labels::new());
                let told: BTreeMap<_, _> =
                    batch.samples.into_iter().map(|sample| (sample.series.to_string(), sample.value)).collect();
                if told.get(series).is_some_and(|count| *count >= least) {
                    return;
                }
                assert!(Instant::now() < deadline, "{series}: {told:?} {:?}", batch.first_skip);
            }
        };
        let of_prefix = |prefix: &str| format!("process_open_fds_by_prefix{{prefix={prefix:?}}}");
        until_told("process_open_fds_by_kind{kind=\"file\"}", held.len() as f64);
        until_told(&of_prefix(directory.path().to_str().unwrap()), held.len() as f64);
        let connected: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(peer).unwrap()).collect();
        until_told("process_open_fds_by_kind{kind=\"socket\"}", connected.len() as f64);
        until_told(&of_prefix(&peer.to_string()), connected.len() as f64);
    }
}
