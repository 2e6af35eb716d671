//! Events of the kernel, whichever source saw them.

use super::Labels;

/// Facts that explain an alert, by name. Sorted, so that the same facts give the same bytes.
pub type Evidence = serde_json::Map<String, serde_json::Value>;

/// Something that the kernel did to somebody, as told by a probe or found by polling.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelEvent {
    /// The metric that alerts about it carry: `kernel_oom_kill`, `kernel_hung_task`, `kernel_block_io_slow`,
    /// `kernel_block_io_error`, `kernel_tcp_retransmit` or `kernel_fd_exhausted`; `agent_overhead` where
    /// it is the agent itself that changed.
    pub metric: &'static str,
    /// What it happened to; the identity under which repetitions are folded.
    pub labels: Labels,
    /// The measure of it, in the unit that the metric's row in `engine::analyzers::event` states.
    pub value: f64,
    /// The limit that `value` stands against, where there is one.
    pub threshold: Option<f64>,
    /// How many single events this stands for; the kernel's side may have folded some. 0 where it says that a condition is over.
    pub count: u64,
    /// One sentence for a human: who, what, how much.
    pub message: String,
    /// Which kind of source saw it: `probe`, or `poll` for what a collector concluded from files that it read.
    pub source: &'static str,
    /// Everything else that is known.
    pub evidence: Evidence,
}
