//! One event and its sources: probe, log, polling and counter.

use serde_json::json;
use sysops_agent::model::KernelEvent;
use sysops_agent::model::Status::{Firing, Resolved, Updated};

use super::{HUNG_TASKS, Host, OOM_KILLS, event, is, series};

fn kill(pid: u32) -> String {
    format!("Memory cgroup out of memory: Killed process {pid} (x) total-vm:1kB, anon-rss:1kB, file-rss:0kB")
}

fn oom(pid: u32) -> KernelEvent {
    event("kernel_oom_kill", &[("comm", "x"), ("pid", &pid.to_string())], &format!("killed {pid}"))
}

fn polled(metric: &'static str, labels: &[(&'static str, &str)], value: f64, threshold: f64) -> KernelEvent {
    KernelEvent { source: "poll", value, threshold: Some(threshold), ..event(metric, labels, "polled") }
}

/// A host whose probes and log are there for long.
fn watched(signals: &[&'static str]) -> Host {
    let mut host = Host::new();
    for signal in signals {
        host.probed(signal, true);
    }
    host.wait(60);
    host
}

#[test]
fn an_alert_lists_its_witnesses_from_the_first() {
    let mut host = watched(&["oom", "kmsg"]);
    host.event(oom(1));
    assert_eq!(host.only().evidence["witnesses"], json!(["probe"]));
    host.line("INFO: task cat:12 blocked for more than 120 seconds.");
    assert_eq!(host.only().evidence["witnesses"], json!(["kmsg"]));
}

#[test]
fn a_hundred_kills_are_a_hundred_findings_with_three_witnesses_each() {
    for order in ["event first", "line first", "all events first", "all lines first"] {
        let (mut host, kills) = (watched(&["oom", "kmsg"]), series(&OOM_KILLS, &[]));
        host.samples(&kills, 10, &[0.0, 0.0]);
        match order {
            "all events first" => (1..=100).for_each(|pid| host.event(oom(pid))),
            "all lines first" => (1..=100).for_each(|pid| host.line(&kill(pid))),
            _ => {}
        }
        for pid in 1..=100 {
            match order {
                "event first" => {
                    host.event(oom(pid));
                    host.line(&kill(pid));
                }
                "line first" => {
                    host.line(&kill(pid));
                    host.event(oom(pid));
                }
                "all events first" => host.line(&kill(pid)),
                _ => host.event(oom(pid)),
            }
        }
        host.wait(2);
        host.sample(&kills, 100.0);
        host.wait(30);
        assert!(host.alerts.iter().all(|alert| alert.status == Firing && alert.count == 1), "{order}");
        assert_eq!(host.alerts.len(), 100, "{order}");
        host.alerts.clear();
        host.wait(600);
        assert_eq!(host.alerts.len(), 100, "{order}");
        for alert in &host.alerts {
            assert_eq!((alert.status, &alert.evidence["witnesses"]), (Resolved, &json!(["counter", "kmsg", "probe"])), "{order}");
            assert!(!alert.evidence.contains_key("disagreement"), "{order}");
        }
    }
}

#[test]
fn a_kill_of_a_thread_is_the_kill_of_its_process() {
    let mut host = watched(&["oom", "kmsg"]);
    let mut event = oom(10);
    event.evidence.insert("thread".into(), json!(12));
    host.event(event);
    host.line(&kill(12));
    host.wait(30);
    assert_eq!(host.told(), [is(Firing, "critical killed 10")]);
}

#[test]
fn a_silent_log_is_a_disagreement_that_is_told_once() {
    let mut host = watched(&["oom", "kmsg"]);
    host.event(oom(1));
    host.wait(3);
    assert_eq!(host.told(), [is(Firing, "critical killed 1")]);
    host.wait(1);
    let alert = host.only();
    assert_eq!(alert.message, "killed 1: the kernel log did not report this within 3 s");
    assert_eq!(
        (alert.status, &alert.evidence["disagreement"]),
        (Updated, &json!("the kernel log did not report this within 3 s"))
    );
    host.event(oom(1));
    host.wait(30);
    assert_eq!(host.told(), []);
}

#[test]
fn a_counter_that_does_not_rise_is_a_disagreement() {
    let (mut host, kills) = (watched(&["oom"]), series(&OOM_KILLS, &[]));
    host.samples(&kills, 10, &[7.0]);
    host.event(oom(1));
    host.sample(&kills, 7.0);
    host.wait(10);
    assert_eq!(host.told().len(), 1, "the counter may have been read before");
    host.sample(&kills, 7.0);
    assert_eq!(host.only().evidence["disagreement"], "the counter kernel_oom_kills_total did not rise");
    host.samples(&kills, 10, &[7.0, 7.0]);
    assert_eq!(host.told(), []);
}

#[test]
fn nothing_is_expected_of_a_log_that_cannot_know() {
    // Not read; just opened; closed meanwhile.
    let mut unread = watched(&["oom"]);
    unread.event(oom(1));
    let mut fresh = Host::new();
    fresh.probed("oom", true);
    fresh.probed("kmsg", true);
    fresh.wait(2);
    fresh.event(oom(1));
    let mut closed = watched(&["oom", "kmsg"]);
    closed.event(oom(1));
    closed.probed("kmsg", false);
    for mut host in [unread, fresh, closed] {
        host.wait(30);
        assert_eq!(host.told().len(), 1);
    }
}

#[test]
fn nothing_is_expected_of_a_log_that_lost_records() {
    static LOST: sysops_agent::model::Metric =
        sysops_agent::model::Metric::counter("agent_log_records_lost_total", sysops_agent::model::Unit::Count, "Lost.");
    for (lost, expected) in [(0.0, 2), (5.0, 1)] {
        let mut host = watched(&["oom", "kmsg"]);
        let series = series(&LOST, &[("source", "kmsg")]);
        host.samples(&series, 5, &[0.0]);
        host.event(oom(1));
        host.wait(5);
        assert_eq!(host.alerts.len(), 1, "what was lost is not known yet");
        host.samples(&series, 10, &[lost]);
        assert_eq!(host.told().len(), expected);
    }
    // The event took its time.
    let mut host = watched(&["oom", "kmsg"]);
    let series = series(&LOST, &[("source", "kmsg")]);
    host.samples(&series, 5, &[0.0]);
    host.samples(&series, 1, &[5.0]);
    host.event(oom(1));
    host.wait(5);
    host.samples(&series, 10, &[5.0]);
    assert_eq!(host.told().len(), 1);
}

#[test]
fn hung_tasks_are_expected_in_the_log_while_the_kernel_logs_them() {
    static WARNINGS: sysops_agent::model::Metric =
        sysops_agent::model::Metric::gauge("kernel_hung_task_warnings", sysops_agent::model::Unit::Count, "Left.");
    for (left, events, disputed) in [(None, 1, 0), (Some(-1.0), 3, 3), (Some(0.0), 1, 0), (Some(2.0), 3, 2)] {
        let mut host = watched(&["hung_task", "kmsg"]);
        if let Some(left) = left {
            host.sample(&series(&WARNINGS, &[]), left);
        }
        for pid in 0..events {
            host.event(event("kernel_hung_task", &[("pid", &pid.to_string())], "hangs"));
        }
        host.wait(10);
        assert_eq!(host.alerts.iter().filter(|alert| alert.status == Updated).count(), disputed, "{left:?}");
    }
}

#[test]
fn io_errors_are_expected_in_the_log_within_the_kernels_rate() {
    let failed =
        |device: u32| event("kernel_block_io_error", &[("device", &format!("d{device}")), ("operation", "read")], "failed");
    let mut host = watched(&["block_io", "kmsg"]);
    let mut unsupported = failed(99);
    unsupported.evidence.insert("error".into(), json!("EOPNOTSUPP"));
    host.event(unsupported);
    (0..12).for_each(|device| host.event(failed(device)));
    host.line("I/O error, dev d3, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2");
    host.wait(10);
    let disputed: Vec<_> =
        host.alerts.iter().filter(|alert| alert.status == Updated).map(|alert| alert.labels.get("device").unwrap()).collect();
    assert_eq!(disputed, ["d0", "d1", "d2", "d4", "d5", "d6", "d7", "d8", "d9"]);
}

#[test]
fn a_rise_that_neither_probe_nor_log_explains_is_told_after_a_grace() {
    let (mut host, kills) = (watched(&["oom", "kmsg"]), series(&OOM_KILLS, &[]));
    host.samples(&kills, 3, &[0.0, 1.0]);
    assert_eq!(host.told(), []);
    host.wait(1);
    let alert = host.only();
    assert_eq!(
        alert.message,
        "OOM kill unconfirmed: the counter kernel_oom_kills_total rose by 1, neither the probe nor a log line names the victim"
    );
    assert_eq!((&alert.evidence["probe"], &alert.evidence["witnesses"]), (&json!("did not report this"), &json!(["counter"])));
    // What the probe told just before it went away explains the rise that is seen after.
    host.event(oom(1));
    host.line(&kill(1));
    host.probed("oom", false);
    host.samples(&kills, 10, &[2.0]);
    assert_eq!(host.told().len(), 1);
}

const HUNG: &str = "INFO: task cat:12 blocked for more than 120 seconds.";
const CAT: [(&str, &str); 2] = [("comm", "cat"), ("pid", "12")];

#[test]
fn without_a_probe_polling_and_log_tell_of_one_task_once() {
    for poll_first in [true, false] {
        let mut host = watched(&["kmsg"]);
        let poll = || polled("kernel_hung_task", &CAT, 125.0, 120.0);
        if poll_first {
            host.event(poll());
            host.line(HUNG);
        } else {
            host.line(HUNG);
            host.event(poll());
        }
        host.wait(20);
        let alert = host.only();
        assert_eq!(alert.evidence["source"], if poll_first { "poll" } else { "kmsg" });
        host.wait(600);
        let over = host.only();
        assert_eq!((&over.evidence["witnesses"], over.count), (&json!(["kmsg", "poll"]), 1));
    }
}

#[test]
fn a_task_that_stays_hung_stays_an_incident() {
    let mut host = watched(&["kmsg"]);
    for turn in 0..10 {
        host.event(polled("kernel_hung_task", &CAT, 120.0 * f64::from(turn + 1), 120.0));
        host.wait(60);
        host.line(HUNG);
        host.wait(60);
    }
    assert!(host.alerts.iter().all(|alert| alert.status != Resolved), "{:#?}", host.told());
}

#[test]
fn what_the_detector_skips_is_found_although_its_probe_is_there() {
    let mut host = watched(&["hung_task", "kmsg"]);
    host.event(polled("kernel_hung_task", &CAT, 130.0, 120.0));
    host.wait(20);
    assert_eq!(host.told(), [], "the detector may still find it");
    host.event(polled("kernel_hung_task", &CAT, 245.0, 120.0));
    host.wait(4);
    let alert = host.only();
    assert_eq!((&alert.evidence["probe"], &alert.evidence["witnesses"]), (&json!("did not report this"), &json!(["poll"])));
    // One that the detector found is known.
    host.event(event("kernel_hung_task", &[("comm", "dd"), ("pid", "13")], "dd hangs"));
    host.event(polled("kernel_hung_task", &[("comm", "dd"), ("pid", "13")], 245.0, 120.0));
    host.wait(20);
    assert_eq!(host.told(), [is(Firing, "warn dd hangs")]);
}

#[test]
fn a_polled_mean_is_a_witness_or_what_the_probe_cannot_see() {
    let labels = [("device", "sda"), ("operation", "write")];
    let mut host = watched(&["block_io"]);
    host.event(event("kernel_block_io_slow", &labels, "slow"));
    host.event(polled("kernel_block_io_slow", &labels, 300.0, 100.0));
    host.wait(10);
    assert_eq!(host.told().len(), 1);
    host.event(polled("kernel_block_io_slow", &[("device", "sdb")], 30_000.0, 100.0));
    host.wait(10);
    assert_eq!(host.only().evidence["probe"], "did not report this");
    let mut host = watched(&[]);
    host.event(polled("kernel_block_io_slow", &labels, 300.0, 100.0));
    let alert = host.only();
    assert_eq!((alert.value, alert.threshold, &alert.evidence["source"]), (300.0, Some(100.0), &json!("poll")));
}

#[test]
fn sums_and_states_say_nothing_new_while_the_probe_sees_each() {
    let fd = || polled("kernel_fd_exhausted", &[("comm", "x"), ("pid", "1")], 64.0, 64.0);
    let tcp = || polled("kernel_tcp_retransmit", &[], 30.0, 5.0);
    let mut host = watched(&["fd", "tcp_retransmit"]);
    host.event(fd());
    host.event(tcp());
    host.wait(10);
    assert_eq!(host.told(), []);
    host.event(event("kernel_fd_exhausted", &[("comm", "x"), ("pid", "1")], "refused"));
    host.event(fd());
    host.wait(600);
    assert_eq!(host.alerts.pop().unwrap().evidence["witnesses"], json!(["poll", "probe"]));
    let mut host = watched(&[]);
    host.event(fd());
    host.event(tcp());
    assert_eq!(host.told().len(), 2);
}

#[test]
fn each_hung_task_of_the_counter_is_explained_by_polling_as_well() {
    let (mut host, hung) = (watched(&[]), series(&HUNG_TASKS, &[]));
    host.samples(&hung, 10, &[0.0]);
    host.event(polled("kernel_hung_task", &CAT, 125.0, 120.0));
    host.samples(&hung, 10, &[1.0]);
    assert_eq!(host.told().len(), 1);
    host.wait(600);
    assert_eq!(host.only().evidence["witnesses"], json!(["counter", "poll"]));
}
