//! A stage for faults of the real kernel: the real binary, and a real HTTP receiver that its alerts go to.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::faults::trace::mount_tracefs;
use xtask::receiver::{Received, Receiver};

/// How long an alert may take. A bound against hanging, not a goal: that is what the benchmark measures.
const ALERT_WITHIN: Duration = Duration::from_secs(15);
/// How long the agent may take to stop. A bound as well: that it is two seconds for the most part is the business of
/// `supervision`; taking programs out of tracepoints takes the kernel as long as its busiest CPU.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// The ways of events out of the kernel, as the configuration names them and as the agent calls them. All must serve alike.
pub const TRANSPORTS: [(&str, &str); 2] = [("ringbuf", "ring buffer"), ("perf", "perf event array")];

/// An agent that watches this kernel.
pub struct Stage {
    /// Its process.
    pub agent: AgentProcess,
    /// Where its messages go.
    pub receiver: Receiver,
    _data_dir: TempDir,
}

impl Stage {
    /// Starts the agent with its webhook pointed at the receiver, with one of [`TRANSPORTS`], and with `ebpf` added to its
    /// section `[ebpf]`; returns when all probes are attached. Nothing is grouped and no rate limit is near, so that each event
    /// can be asserted on.
    pub fn set((transport, called): (&str, &str), ebpf: &str) -> Self {
        mount_tracefs().unwrap();
        let receiver = Receiver::start().unwrap();
        let data_dir = TempDir::new().unwrap();
        let config = format!(
            "[agent]\n\
             data_dir = '{}'\n\
             [ebpf]\n\
             transport = '{transport}'\n\
             {ebpf}\n\
             [alerting]\n\
             max_alerts_per_minute = 1000\n\
             max_alerts_per_hour = 1000\n\
             max_alerts_per_hour_overall = 1000\n\
             [alerting.grouping]\n\
             enabled = false\n\
             [alerting.webhook]\n\
             enabled = true\n\
             url = '{}'\n",
            data_dir.path().display(),
            receiver.url()
        );
        let agent = AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_sysops-agent")), &config, &[]).unwrap();
        assert!(agent.stdout().contains(&format!(", {called}\n")), "{}", agent.stdout());
        Self { agent, receiver, _data_dir: data_dir }
    }

    /// The alert about `metric` with these labels.
    pub fn alert(&self, metric: &str, labels: &[(&str, &str)]) -> Received {
        self.receiver.wait_for(ALERT_WITHIN, |body| is_about(body, metric, labels)).unwrap()
    }

    /// Stops the agent, and asserts that it did so in time, without a failure, that it opened one incident only for what
    /// `alert` is about, and that it accounts for each record. The final figures by probe, of those that it still told before
    /// its time was up.
    pub fn strike(mut self, alert: &Received) -> BTreeMap<String, BTreeMap<String, u64>> {
        let stopped = self.agent.stop(STOP_WITHIN).unwrap();
        assert!(stopped.status.success(), "{stopped:?}");
        let same = |received: &&Received| received.body["id"] == alert.body["id"];
        let all = self.receiver.all();
        let firing: Vec<&Received> = all.iter().filter(same).filter(|received| received.body["status"] == "firing").collect();
        assert_eq!(firing.len(), 1, "{firing:#?}");
        assert_eq!(alert.header("idempotency-key"), alert.body["delivery"].as_str());
        let figures: BTreeMap<_, _> = self.agent.stderr().lines().filter_map(figures).collect();
        for (probe, figures) in &figures {
            assert_eq!(figures["sent"], figures["received"] + figures["lost"], "{probe}: {figures:?}");
        }
        figures
    }
}

/// What became of the records of one probe: the numbers of a line `… probe NAME: sent N, received N, lost N, …`.
fn figures(line: &str) -> Option<(String, BTreeMap<String, u64>)> {
    let (probe, rest) = line.split_once(" probe ")?.1.split_once(": sent ")?;
    let numbers = format!("sent {rest}");
    let numbers =
        numbers.split(", ").map(|pair| pair.split_once(' ')).map(|pair| Some((pair?.0.to_owned(), pair?.1.parse().ok()?)));
    Some((probe.to_owned(), numbers.collect::<Option<_>>()?))
}

/// Whether a message is about `metric` with at least these labels.
fn is_about(body: &Value, metric: &str, labels: &[(&str, &str)]) -> bool {
    body["metric"] == metric && labels.iter().all(|(name, value)| body["labels"][*name] == *value)
}
