//! Whether a probe that says nothing is blind: the kernel counts some of the same things by itself.
//!
//! An event is delivered within milliseconds. So where the kernel's own counter has risen, and an interval later the probe has
//! still counted nothing at all, its programs do not run any more. A probe that is silent because nothing happens has a counter
//! that stands still.

use crate::host::Host;

/// A counter of the kernel that rises only with what a probe sees.
#[derive(Clone, Copy)]
pub struct Pulse {
    /// What it is called in a message.
    pub name: &'static str,
    /// Reads it; `None` where this kernel has none.
    pub read: fn(&Host) -> Option<u64>,
    /// A rise by less than this may be something else.
    pub floor: u64,
}

/// OOM kills of the whole host (mm/oom_kill.c).
pub const OOM: Pulse = Pulse { name: "/proc/vmstat oom_kill", read: |host| field(&text(host, "vmstat")?, "oom_kill "), floor: 1 };

/// Detections of the hung-task detector (kernel/hung_task.c).
pub const HUNG_TASK: Pulse = Pulse {
    name: "/proc/sys/kernel/hung_task_detect_count",
    read: |host| text(host, "sys/kernel/hung_task_detect_count")?.trim().parse().ok(),
    floor: 1,
};

/// Completed requests of disks that have requests: others, such as zram and device mapper, count in `/proc/diskstats`, too, and
/// never issue one. The floor is above what may have been under way when the probe was attached, which it does not count.
pub const BLOCK_IO: Pulse = Pulse { name: "/sys/block/DISK/stat", read: completions, floor: 10_000 };

/// Segments sent again in this network namespace, without SYN and SYN-ACK segments, most of which have another tracepoint, and
/// without those that could not be sent (Documentation/networking/snmp_counter.rst).
pub const TCP_RETRANSMIT: Pulse = Pulse { name: "/proc/net/snmp RetransSegs", read: retransmits, floor: 20 };

/// What has been seen of a probe and its pulse.
#[derive(Default)]
pub struct Silence {
    own: u64,
    /// The counter at the first look at which the probe had counted nothing new.
    since: Option<u64>,
    suspected: bool,
}

impl Silence {
    /// Looks again: the probe has counted `own` so far. By how much the kernel's counter rose beside it, where that means that
    /// the probe is blind; the counter is read only while the probe is silent.
    pub fn look(&mut self, own: u64, floor: u64, pulse: impl FnOnce() -> Option<u64>) -> Option<u64> {
        if std::mem::replace(&mut self.own, own) != own {
            (self.since, self.suspected) = (None, false);
            return None;
        }
        let now = pulse()?;
        let since = *self.since.get_or_insert(now);
        let Some(rise) = now.checked_sub(since) else {
            // It was reset.
            (self.since, self.suspected) = (Some(now), false);
            return None;
        };
        let suspected = std::mem::replace(&mut self.suspected, rise >= floor);
        (suspected && rise >= floor).then_some(rise)
    }
}

fn text(host: &Host, file: &str) -> Option<String> {
    std::fs::read_to_string(host.procfs(file)).ok()
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// The value of a column in a file of pairs of lines, `Tcp: names…` and `Tcp: values…` (proc_pid_net(5)).
fn column(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let at = lines.next()?.split_whitespace().position(|column| column == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

fn retransmits(host: &Host) -> Option<u64> {
    let sent = column(&text(host, "net/snmp")?, "Tcp:", "RetransSegs")?;
    let netstat = text(host, "net/netstat")?;
    let other = ["TCPSynRetrans", "TCPRetransFail"].map(|name| column(&netstat, "TcpExt:", name).unwrap_or(0));
    Some(other.iter().fold(sent, |sent, other| sent.saturating_sub(*other)))
}

/// Reads and writes (Documentation/block/stat.rst).
fn completions(host: &Host) -> Option<u64> {
    let disks = std::fs::read_dir(host.sysfs("block")).ok()?.flatten().map(|entry| entry.path());
    let of_disk = |disk: std::path::PathBuf| {
        let text = std::fs::read_to_string(disk.join("stat")).ok()?;
        let mut columns = text.split_whitespace().map(|column| column.parse::<u64>().unwrap_or(0));
        Some(columns.next()?.wrapping_add(columns.nth(3)?))
    };
    Some(disks.filter(|disk| disk.join("mq").exists()).filter_map(of_disk).fold(0, u64::wrapping_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each look says, of pairs of the probe's count and the kernel's.
    fn looks<const N: usize>(floor: u64, counts: [(u64, u64); N]) -> [Option<u64>; N] {
        let mut silence = Silence::default();
        counts.map(|(own, kernel)| silence.look(own, floor, || Some(kernel)))
    }

    #[test]
    fn silence_beside_a_rise_is_death_one_interval_later() {
        assert_eq!(looks(1, [(0, 7), (0, 8), (0, 8)]), [None, None, Some(1)]);
        assert_eq!(looks(1, [(0, 7), (0, 8), (0, 10)]), [None, None, Some(3)]);
    }

    #[test]
    fn silence_while_nothing_happens_is_rest() {
        assert_eq!(looks(1, [(0, 7), (0, 7), (0, 7), (0, 7)]), [None; 4]);
    }

    #[test]
    fn an_event_that_comes_a_little_late_is_no_silence() {
        assert_eq!(looks(1, [(0, 7), (0, 8), (1, 8), (1, 8), (1, 8)]), [None; 5]);
    }

    #[test]
    fn rises_below_the_floor_are_nothing_and_add_up() {
        assert_eq!(looks(20, [(0, 0), (0, 19), (0, 19), (0, 20), (0, 20)]), [None, None, None, None, Some(20)]);
    }

    #[test]
    fn a_counter_that_was_reset_begins_anew() {
        assert_eq!(looks(1, [(0, 7), (0, 0), (0, 0), (0, 1), (0, 1)]), [None, None, None, None, Some(1)]);
    }

    #[test]
    fn columns_are_found_by_name() {
        let text = "Ip: A B\nIp: 1 2\nTcp: MaxConn RetransSegs InErrs\nTcp: -1 42 0\n";
        assert_eq!(column(text, "Tcp:", "RetransSegs"), Some(42));
        assert_eq!(column(text, "Tcp:", "MaxConn"), None);
        assert_eq!(column("Tcp: RetransSegs\n", "Tcp:", "RetransSegs"), None);
        assert_eq!(field("nr_x 1\noom_kill 3\n", "oom_kill "), Some(3));
    }
}
