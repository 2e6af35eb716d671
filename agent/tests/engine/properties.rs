//! What must hold for any input.

use sysops_agent::config::Config;
use sysops_agent::engine::{Engine, MEMORY_BUDGET};
use sysops_agent::model::{
    Alert, Evidence, LogRecord, Observation, Sample, Samples, SeriesKey, Severity, SourceState, Status, Timestamp,
};

use super::{CPU, DISK, HUNG_TASKS, Host, LOAD, NETWORK, OOM_KILLS, PROCESS_FD, event, series};

/// xorshift64*: the same numbers on every run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A wild mixture: any number, times that jump, repeat and run backward, lines cut anywhere.
fn wild(seed: u64, steps: usize) -> Vec<(Timestamp, Observation)> {
    let mut random = Random(seed);
    let keys: Vec<SeriesKey> = [&CPU, &DISK, &PROCESS_FD, &LOAD, &NETWORK, &OOM_KILLS, &HUNG_TASKS]
        .into_iter()
        .flat_map(|metric| ["all", "/", "x"].map(|label| series(metric, &[("core", label), ("mount", label)])))
        .collect();
    let numbers =
        [0.0, -1.0, 50.0, 91.0, 96.0, 100.0, 1e300, -1e300, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let jumps = [0, 0, 1, 1, 1, 10, 10, 10, 60, 600, 86_400, -1, -60, -86_400];
    let lines = [
        "Memory cgroup out of memory: Killed process 7 (\u{e9}) total-vm:99999999999999999999999kB, anon-rss:18446744073709551615kB, file-rss:18446744073709551615kB",
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),global_oom,task_memcg=/,task=\u{e9},pid=7,uid=0",
        "INFO: task \u{fffd}:7 blocked for more than 99999999999999999999 seconds.",
        "I/O error, dev sda, sector 1 op 0x0:(READ)",
        "EDAC MC0: 99999999999 CE ",
    ];
    let metrics = ["kernel_oom_kill", "kernel_hung_task", "kernel_tcp_retransmit", "kernel_block_io_error", "unknown"];
    let mut secs: i64 = 1_700_000_000;
    let mut observations = Vec::new();
    for _ in 0..steps {
        secs += random.pick(&jumps);
        let at = if random.next().is_multiple_of(500) {
            *random.pick(&[Timestamp::from_nanos(i64::MIN), Timestamp::from_nanos(i64::MAX), Timestamp::default()])
        } else {
            Timestamp::from_secs(secs)
        };
        let observation = match random.next() % 8 {
            0..=2 => {
                let sample = |random: &mut Random| Sample { series: random.pick(&keys).clone(), value: *random.pick(&numbers) };
                Observation::Samples(Samples { collector: "test", values: (0..3).map(|_| sample(&mut random)).collect() })
            }
            3 => {
                let mut event = event(random.pick::<&'static str>(&metrics), &[("pid", *random.pick(&["1", "7"]))], "x");
                event.value = *random.pick(&numbers);
                event.threshold = Some(*random.pick(&numbers));
                event.count = *random.pick(&[0, 1, 5, u64::MAX]);
                event.source = *random.pick(&["probe", "poll"]);
                Observation::Event(Box::new(event))
            }
            4 => {
                let line = random.pick(&lines);
                let cut = line.floor_char_boundary(random.below(300));
                let (text, facts) = (line[..cut].to_owned(), Evidence::new());
                Observation::Log(LogRecord { source: "kmsg", level: None, is_kernel: true, written: None, text, facts })
            }
            5 => {
                let signal = *random.pick(&["oom", "hung_task", "block_io"]);
                Observation::Source(SourceState { signal, probed: random.next().is_multiple_of(2) })
            }
            _ => Observation::Tick,
        };
        observations.push((at, observation));
    }
    observations
}

fn run(observations: &[(Timestamp, Observation)]) -> (Vec<Alert>, Engine) {
    let mut engine = Engine::new(&Config::default(), "web-01");
    let mut alerts = Vec::new();
    for (at, observation) in observations {
        engine.observe(*at, observation.clone(), &mut alerts);
    }
    (alerts, engine)
}

#[test]
fn any_input_gives_sound_alerts() {
    let mut all = 0;
    for seed in 1..=20 {
        let (alerts, engine) = run(&wild(seed, 3000));
        for alert in &alerts {
            assert!(alert.value.is_finite() && alert.threshold.is_none_or(f64::is_finite), "{alert:?}");
            assert!(!alert.message.is_empty() && !alert.message.contains("NaN") && !alert.message.contains("inf"), "{alert:?}");
        }
        // No message twice; nothing ends that has not begun, or goes on after its end.
        let mut deliveries: Vec<_> = alerts.iter().map(|alert| (&alert.id, &alert.delivery, alert.at)).collect();
        deliveries.sort();
        deliveries.dedup();
        assert_eq!(deliveries.len(), alerts.len());
        let begun = alerts.iter().filter(|alert| alert.status == Status::Firing).count();
        let over = alerts.iter().filter(|alert| alert.status == Status::Resolved).count();
        assert_eq!(begun - over, engine.open_incidents().count());
        assert!(engine.store().bytes() <= MEMORY_BUDGET);
        assert!(engine.stats().samples_unusable > 0);
        all += alerts.len();
    }
    assert!(all > 1000, "the mixture is too tame: {all} alerts");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let observations = wild(4711, 5000);
    let (first, second) = (run(&observations), run(&observations));
    assert_eq!(format!("{:?}", first.0), format!("{:?}", second.0));
    assert_eq!(first.1.stats(), second.1.stats());
    let open = |engine: &Engine| format!("{:?}", engine.open_incidents().collect::<Vec<_>>());
    assert_eq!(open(&first.1), open(&second.1));
}

/// A day of 200 series every 10 seconds: ordinary work with a nightly peak, one disk that fills up, one core that spins.
#[test]
fn a_day_on_a_host() {
    let mut host = Host::new();
    let cpu = series(&CPU, &[("core", "all")]);
    let disk = series(&DISK, &[("mount", "/var")]);
    let others: Vec<_> = (0..198_u32)
        .map(|n| series(if n < 64 { &CPU } else { &PROCESS_FD }, &[("core", &n.to_string()), ("pid", &n.to_string())]))
        .collect();
    let mut random = Random(1);
    for step in 0..8640_u32 {
        let noise = random.below(100) as f64 / 10.0;
        let backup = (1000..1090).contains(&step);
        let mut values = vec![
            Sample { series: cpu.clone(), value: if backup { 91.0 + noise / 2.0 } else { 30.0 + noise * 5.0 } },
            Sample { series: disk.clone(), value: 80.0 + f64::from(step) / 8640.0 * 16.0 },
        ];
        values.extend(others.iter().zip(0..).map(|(series, n)| Sample {
            series: series.clone(),
            value: if n == 3 { 100.0 } else { noise + f64::from(n) / 4.0 },
        }));
        host.observe(Observation::Samples(Samples { collector: "test", values }));
        host.wait(10);
    }
    let told: Vec<_> = host.alerts.iter().map(|alert| (&*alert.metric, alert.status, alert.severity)).collect();
    assert_eq!(
        told,
        [
            ("cpu_usage_percent", Status::Firing, Severity::Warn),
            ("cpu_usage_percent", Status::Resolved, told[1].2),
            ("disk_usage_percent", Status::Firing, Severity::Warn),
            ("disk_usage_percent", Status::Updated, Severity::Critical),
            ("disk_usage_percent", Status::Updated, Severity::Emergency),
        ]
    );
    assert_eq!(host.alerts[2].at, Host::time(5400 * 10));
    let stats = host.engine.stats();
    assert_eq!((stats.samples, stats.series), (8640 * 200, 200));
    // The whole day is there, in less than two bytes a sample.
    assert_eq!(stats.chunks_evicted, 0);
    assert!(stats.store_bytes < 2 * 8640 * 200, "{}", stats.store_bytes);
    let store = host.engine.store();
    let id = store.id(&cpu).unwrap();
    assert_eq!(store.window(id, Host::time(0), Host::time(86_400)).count(), 8640);
}
