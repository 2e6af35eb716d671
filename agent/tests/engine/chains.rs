//! What belongs together is one incident, with its causes in order.

use serde_json::{Value, json};
use sysops_agent::model::Status::{Firing, Resolved, Updated};
use sysops_agent::model::{Alert, Metric, SeriesKey, Severity, Unit};

use super::{DISK, Host, PROCESS_FD, event, is, series};

static RSS: Metric = Metric::gauge("process_rss_bytes", Unit::Bytes, "Resident memory.");
static START: Metric = Metric::gauge("process_start_time_seconds", Unit::Seconds, "Start.");
static LIMIT_HIT: Metric = Metric::counter("cgroup_memory_events_total", Unit::Count, "Limits hit.");
static AWAIT: Metric = Metric::gauge("disk_await_seconds", Unit::Seconds, "Mean wait.");
static DROPS: Metric = Metric::counter("network_transmit_drops_total", Unit::Count, "Drops.");
static BLOCKED: Metric = Metric::gauge("process_uninterruptible", Unit::Count, "Blocked processes.");

const MIB: f64 = 1_048_576.0;

/// A process with its cgroup, started `ago` seconds before the time of the host.
fn process(host: &mut Host, pid: &str, comm: &str, cgroup: &str, ago: i64) -> SeriesKey {
    let labels = [("pid", pid), ("comm", comm)];
    let start = series(&START, &[labels[0], labels[1], ("cgroup", cgroup)]);
    host.sample(&start, (1_700_000_000 + host.now - ago) as f64);
    series(&RSS, &labels)
}

fn links(alert: &Alert) -> Vec<&str> {
    let chain = alert.evidence.get("chain").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    chain.iter().map(|link| link["link"].as_str().unwrap_or_default()).collect()
}

/// A kill of `pid` in `/app/victim`, because of a limit on `/app`.
fn kill(pid: &str) -> sysops_agent::model::KernelEvent {
    let labels = [("pid", pid), ("comm", "db"), ("cgroup", "/app/victim")];
    let mut kill = event("kernel_oom_kill", &labels, &format!("OOM killer killed db (pid {pid})"));
    let facts = [("constraint", json!("memcg")), ("limit_cgroup", json!("/app")), ("parent_pid", json!(40))];
    kill.evidence = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
    kill
}

#[test]
fn a_leak_that_costs_another_process_its_life_is_one_incident() {
    let mut host = Host::new();
    let leaker = process(&mut host, "10", "leaker", "/app/leaker", 3600);
    let victim = process(&mut host, "20", "db", "/app/victim", 3600);
    // Larger, and of nobody's concern: it is not below the limit.
    let outsider = process(&mut host, "30", "browser", "/user", 3600);
    let limit_hit = series(&LIMIT_HIT, &[("cgroup", "/app"), ("event", "max")]);
    for step in 0..20 {
        host.sample(&leaker, f64::from(10 + step * 10) * MIB);
        host.sample(&victim, 50.0 * MIB);
        host.sample(&outsider, f64::from(100 + step * 100) * MIB);
        host.sample(&limit_hit, f64::from((step - 15).max(0)));
        host.wait(30);
    }
    host.event(kill("20"));

    let alert = host.only();
    assert_eq!((alert.status, alert.severity), (Firing, Severity::Critical));
    assert_eq!(links(&alert), ["growth", "reclaim", "kernel_oom_kill"]);
    let [growth, reclaim, _] = alert.evidence["chain"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!(growth["text"], "leaker (pid 10) in cgroup /app/leaker grew from 10.0 MiB to 200.0 MiB within 10 min");
    assert_eq!(growth["evidence"]["cgroup"], "/app/leaker");
    assert_eq!(reclaim["evidence"]["limit_max"], 4.0);

    host.wait(5);
    process(&mut host, "21", "db", "/app/victim", 2);
    let alert = host.only();
    assert_eq!((alert.status, links(&alert).last()), (Updated, Some(&"restart")));
    assert_eq!(alert.message, "OOM killer killed db (pid 20); db is back as pid 21, 3 s after the kill");
    // One that was there all along, seen for the first time.
    process(&mut host, "22", "db", "/app/victim", 5000);
    assert_eq!(host.told(), []);
    assert_eq!(host.engine.open_incidents().count(), 1);
}

#[test]
fn a_process_that_kills_itself_by_growing_is_named_as_both() {
    let mut host = Host::new();
    let victim = process(&mut host, "20", "db", "/app/victim", 3600);
    host.samples(&victim, 30, &[10.0 * MIB, 20.0 * MIB, 40.0 * MIB]);
    host.event(kill("20"));
    let alert = host.only();
    assert_eq!(links(&alert), ["growth", "kernel_oom_kill"]);
    assert_eq!(alert.evidence["chain"][0]["evidence"]["pid"], "20");
}

#[test]
fn many_victims_in_one_cgroup_are_few_messages() {
    let mut host = Host::new();
    for pid in 0..100 {
        host.event(kill(&pid.to_string()));
        host.wait(1);
    }
    let told = host.told();
    assert!(told.len() < 3, "{told:#?}");
    let [incident] = host.engine.open_incidents().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(incident.count, 100);
    host.wait(900);
    let [(Resolved, text)] = &host.told()[..] else { panic!() };
    assert!(text.ends_with("after 100 events within 1 min 39 s"), "{text}");
}

#[test]
fn a_slow_device_is_the_cause_of_a_task_that_hangs() {
    let mut host = Host::new();
    let (wait, blocked) = (series(&AWAIT, &[("device", "sdb")]), series(&BLOCKED, &[]));
    for (slow, tasks) in [(0.001, 0.0), (0.4, 0.0), (0.9, 2.0), (0.8, 3.0)] {
        host.sample(&wait, slow);
        host.sample(&blocked, tasks);
        host.wait(30);
    }
    host.event(event("kernel_hung_task", &[("pid", "7"), ("comm", "tar")], "Task tar (pid 7) blocked for more than 120 s"));
    let alert = host.only();
    assert_eq!(links(&alert), ["disk_latency", "blocked_tasks", "kernel_hung_task"]);
    assert_eq!(alert.evidence["chain"][0]["text"], "sdb took 900 ms a request");
    assert_eq!(alert.evidence["chain"][1]["evidence"]["tasks"], 3.0);
}

#[test]
fn retransmits_come_after_drops_and_fill_the_socket() {
    let mut host = Host::new();
    let drops = series(&DROPS, &[("interface", "eth0")]);
    host.samples(&drops, 10, &[5.0, 5.0, 105.0]);
    let connection = |port: u16| {
        let labels = [("local", "10.0.0.1:40000"), ("peer", &*format!("10.0.0.2:{port}"))];
        let mut sent_again = event("kernel_tcp_retransmit", &labels, &format!("segments to port {port} are sent again"));
        sent_again.count = 5;
        sent_again.evidence.insert("send_queue_bytes".into(), json!(8192));
        sent_again
    };
    host.event(connection(443));
    let alert = host.only();
    assert_eq!(links(&alert), ["packet_loss", "kernel_tcp_retransmit", "socket_queue"]);
    assert_eq!(alert.evidence["chain"][0]["text"], "eth0: 100 packets to send dropped");
    assert_eq!(alert.evidence["chain"][2]["text"], "8.0 KiB waited in the socket to be sent or acknowledged");
    host.event(connection(8443));
    assert_eq!((host.told(), host.engine.open_incidents().count()), (vec![], 1), "it is the same peer");
}

#[test]
fn what_is_said_of_one_subject_is_one_incident() {
    let mut host = Host::new();
    let device = |operation| [("device", "sdb"), ("operation", operation)];
    host.event(event("kernel_block_io_slow", &device("read"), "slow read"));
    let fired = host.only();
    host.event(event("kernel_block_io_slow", &device("write"), "slow write"));
    assert_eq!(host.told(), [], "the same kind about the same device is told with the next message");
    host.event(event("kernel_block_io_error", &device("write"), "write failed"));
    let worse = host.only();
    assert_eq!((&worse.id, worse.status, worse.severity), (&fired.id, Updated, Severity::Critical));
    assert_eq!((&*worse.metric, worse.count), ("kernel_block_io_error", 3));
    assert_eq!(worse.message, "write failed (after: slow write)");
    assert_eq!(links(&worse), ["kernel_block_io_slow", "kernel_block_io_slow", "kernel_block_io_error"]);
    host.event(event("kernel_block_io_slow", &[("device", "sda"), ("operation", "read")], "slow read of another"));
    assert_eq!(host.only().status, Firing);
    // Long after, it is something new.
    host.wait(400);
    host.event(event("kernel_block_io_error", &device("discard"), "discard failed"));
    assert_eq!(host.told().last().unwrap(), &is(Firing, "critical discard failed"));
    assert_eq!(host.engine.open_incidents().count(), 3);
}

#[test]
fn an_incident_is_over_when_all_of_it_is() {
    let mut host = Host::new();
    let usage = series(&PROCESS_FD, &[("comm", "nginx"), ("pid", "7")]);
    host.samples(&usage, 30, &[92.0]);
    host.event(event("kernel_fd_exhausted", &[("comm", "nginx"), ("pid", "7")], "nginx was refused a descriptor"));
    let told = host.told();
    assert_eq!(
        told[1],
        is(
            Updated,
            "critical nginx was refused a descriptor (after: File descriptor usage of nginx (pid 7) 92.0% exceeds threshold 80%)"
        )
    );
    // The events stop, the condition goes on.
    host.samples(&usage, 30, &[92.0; 40]);
    assert!(host.told().iter().all(|(status, _)| *status != Resolved));
    host.samples(&usage, 30, &[10.0; 4]);
    assert!(matches!(host.told()[..], [(Resolved, _)]));
    assert_eq!(host.engine.open_incidents().count(), 0);
    // And it can begin again.
    host.samples(&usage, 30, &[92.0]);
    assert!(matches!(host.told()[..], [(Firing, _)]));
}

#[test]
fn an_event_that_goes_on_is_told_of_beside_a_condition() {
    let mut host = Host::new();
    let refused = || event("kernel_fd_exhausted", &[("comm", "nginx"), ("pid", "7")], "nginx was refused a descriptor");
    host.event(refused());
    let id = host.only().id;
    host.sample(&series(&PROCESS_FD, &[("comm", "nginx"), ("pid", "7")]), 100.0);
    assert_eq!(host.told().len(), 1, "as bad, and of another kind");
    host.wait(300);
    host.event(refused());
    let again = host.only();
    assert_eq!((again.id, &*again.metric), (id, "kernel_fd_exhausted"));
    assert_eq!(again.message, "nginx was refused a descriptor (seen 1 time in the last 5 minutes)");
}

#[test]
fn file_systems_without_a_device_are_not_one() {
    let mut host = Host::new();
    for mount in ["/run", "/dev/shm"] {
        host.sample(&series(&DISK, &[("device", "tmpfs"), ("mount", mount)]), 99.0);
    }
    assert_eq!(host.engine.open_incidents().count(), 2);
}
