//! Leaks: descriptors or memory of one process that grow and do not stop.
//!
//! A line is fitted to the floors of a process' values, the least of each block of time: what a process gives back within a block,
//! as a garbage collector does, is no growth. Growth must show from block to block and go on in the last third of the time, so that
//! a pool or a cache that fills up is silent; it must be of a size that matters; and it must reach levels that the process has
//! not come back from before. The farther off the limit, the longer growth is watched before it is told.
//!
//! A process is its id and its start (`process_start_time_seconds`): one that was started again is another one, and begins anew.
//! Nothing is kept aside: every few minutes the samples are read from the store.

mod growth;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use self::growth::{Context, Growth, Start};
use super::{Analyzer, Finding, Phase, Row, Silence};
use crate::config::Config;
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::model::{Evidence, Labels, SeriesKey, Severity, Timestamp};

pub(super) const ROW: Row = Row {
    name: "leak",
    summary: "descriptors or memory of a process grow and do not stop",
    build: |config| Box::new(Leak::new(config)),
};

/// Looks in a row that must see growth until it is told, and none until it is over.
const CONFIRMED: u32 = 3;
/// Time between two looks at a series.
const LOOKS: Duration = Duration::from_secs(300);
/// Looks at different series are spread over this many minutes.
const SPREAD: u64 = 5;
/// Silence after which a process that is told of is called gone.
const PATIENCE: Duration = Duration::from_secs(900);

/// What may leak.
#[derive(Debug)]
struct Rule {
    metric: &'static str,
    /// What a human calls it.
    name: &'static str,
    /// Growth that matters, in the metric's unit.
    floor: f64,
    /// The metric that says how much of which kind there is, by its label `kind`.
    kinds: &'static str,
    is_memory: bool,
}

const RULES: [Rule; 2] = [
    Rule {
        metric: "process_open_fds",
        name: "File descriptors",
        floor: 20.0,
        kinds: "process_open_fds_by_kind",
        is_memory: false,
    },
    Rule {
        metric: "process_rss_bytes",
        name: "Memory",
        floor: 16.0 * 1024.0 * 1024.0,
        kinds: "process_rss_kind_bytes",
        is_memory: true,
    },
];

const START: &str = "process_start_time_seconds";
const FD_USAGE: &str = "process_fd_usage_percent";
const PREFIX: &str = "process_open_fds_by_prefix";
/// What says how much memory is left: of the host, and of each cgroup with a limit.
const MEMORY_AVAILABLE: &str = "memory_available_bytes";
const CGROUP: [&str; 2] = ["cgroup_memory_limit_bytes", "cgroup_memory_used_bytes"];

impl Rule {
    fn amount(&self, amount: f64) -> String {
        if self.is_memory { text::size(amount) } else { format!("{amount:.0}") }
    }
}

#[derive(Debug)]
struct Firing {
    since: Timestamp,
    growth: Growth,
    labels: Labels,
    start: Option<Start>,
}

/// One series that may leak.
#[derive(Debug)]
struct Watch {
    rule: &'static Rule,
    process: Process,
    start: Option<Start>,
    due: Option<Timestamp>,
    contrary: u32,
    firing: Option<Firing>,
}

/// What names a process while it lives: pid and comm.
type Process = (String, String);

/// Series that say more about a process, by metric and kind or prefix.
type Companions = BTreeMap<(&'static str, String), SeriesId>;

/// Series that say how much memory is left, by metric and cgroup.
type Memory = BTreeMap<(&'static str, String), SeriesId>;

struct Leak {
    least: Duration,
    r_squared: f64,
    watches: BTreeMap<SeriesId, Watch>,
    companions: BTreeMap<Process, Companions>,
    memory: Memory,
    silence: Silence,
}

impl Leak {
    fn new(config: &Config) -> Self {
        let mut leak = Self {
            least: Duration::ZERO,
            r_squared: 0.0,
            watches: BTreeMap::new(),
            companions: BTreeMap::new(),
            memory: Memory::new(),
            silence: Silence::default(),
        };
        leak.reconfigure(config);
        leak
    }
}

fn process(labels: &Labels) -> Option<Process> {
    Some((labels.get("pid")?.to_owned(), labels.get("comm")?.to_owned()))
}

/// The name and the rest that tell the companions of a process apart; `None` of a series that is none.
fn companion(key: &SeriesKey) -> Option<(&'static str, String)> {
    let label = match key.metric().name {
        START | FD_USAGE => "",
        PREFIX => "prefix",
        name if RULES.iter().any(|rule| rule.kinds == name) => "kind",
        _ => return None,
    };
    Some((key.metric().name, key.labels().get(label).unwrap_or_default().to_owned()))
}

/// The name and cgroup of a series that says how much memory is left; `None` of another.
fn memory(key: &SeriesKey) -> Option<(&'static str, String)> {
    let name = key.metric().name;
    let is_memory = name == MEMORY_AVAILABLE || CGROUP.contains(&name);
    is_memory.then(|| (name, key.labels().get("cgroup").unwrap_or_default().to_owned()))
}

impl Watch {
    fn is_due(&mut self, at: Timestamp, id: SeriesId) -> bool {
        let due = *self.due.get_or_insert_with(|| at.plus(Duration::from_secs(id.index() as u64 % SPREAD * 60)));
        // A clock that was set back must not stop the looks.
        let is_due = at >= due || due.since(at) > LOOKS;
        if is_due {
            self.due = Some(at.plus(LOOKS));
        }
        is_due
    }

    fn look(&mut self, id: SeriesId, context: &Context<'_>) -> Option<Finding> {
        let key = context.store.key(id)?;
        self.start = context.start(self.start);
        let since = self.start.map_or(Timestamp::from_nanos(i64::MIN), |start| start.seen);
        if let Some(firing) = &self.firing {
            let told = firing.start.zip(self.start);
            if told.is_some_and(|(told, start)| (told.secs - start.secs).abs() > f64::EPSILON) {
                self.contrary = 0;
                return self.clear(key, context, |subject| format!("{subject} was started again"));
            }
        }
        let found = context.leak(self.rule, id, since);
        let is_contrary = match (&mut self.firing, found) {
            (Some(firing), Some(growth)) => {
                firing.growth = growth;
                false
            }
            (Some(firing), None) => context.is_over(id, &firing.growth),
            (None, found) => found.is_some(),
        };
        self.contrary = if is_contrary { self.contrary + 1 } else { 0 };
        if self.contrary < CONFIRMED {
            return None;
        }
        self.contrary = 0;
        match found {
            Some(growth) => {
                let begun = context.at.minus(growth.span);
                let labels = key.labels().clone().with("analyzer", ROW.name);
                self.firing = Some(Firing { since: begun, growth, labels, start: self.start });
                self.tell(context)
            }
            None => self.clear(key, context, |subject| format!("{subject} no longer grows")),
        }
    }

    fn subject(&self) -> String {
        let (pid, comm) = &self.process;
        format!("{} of {comm} (pid {pid})", self.rule.name)
    }

    /// The finding that begins an incident.
    fn tell(&mut self, context: &Context<'_>) -> Option<Finding> {
        let subject = self.subject();
        let firing = self.firing.as_mut()?;
        let (rule, Growth { span, line, first, last, left, limit }) = (self.rule, firing.growth);
        let kinds = context.kinds(rule, firing.since);
        let sum: f64 = kinds.iter().map(|(_, grown)| grown.max(0.0)).sum();
        let main = kinds.first().filter(|(_, grown)| *grown > 0.0 && *grown >= sum / 2.0);
        let by_hour = line.slope * 3600.0;
        let mut message = format!(
            "{subject} grew from {} to {} within {}, {} an hour",
            rule.amount(first),
            rule.amount(last),
            text::duration(span),
            rule.amount(by_hour)
        );
        let mut facts: Vec<(&str, Value)> = vec![
            ("start", json!(first)),
            ("now", json!(last)),
            ("rate_per_hour", json!(by_hour)),
            ("r_squared", json!(line.r_squared)),
            ("window_seconds", json!(span.as_secs())),
        ];
        if let Some((kind, grown)) = main {
            message += &format!(", mostly {kind}");
            firing.labels.set("kind", kind.clone());
            facts.push(("grows", json!(format!("{kind} (+{})", rule.amount(*grown)))));
        }
        if !kinds.is_empty() {
            facts.push(("growth_by_kind", kinds.iter().map(|(kind, grown)| (kind.clone(), json!(grown))).collect()));
        }
        if let Some((prefix, count)) = context.prefix().filter(|_| !rule.is_memory) {
            facts.push(("commonest_prefix", json!(format!("{prefix} ({count})"))));
        }
        if let Some((limit, left)) = limit.zip(left) {
            let time = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            message += &format!("; its limit of {} is reached in {}", rule.amount(limit), text::duration(time));
            facts.push(("time_left_seconds", json!(left.round())));
            facts.push(("limit", json!(limit)));
        }
        let mut finding = self.finding(Phase::Holds, message, last)?;
        finding.evidence.extend(facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)));
        Some(finding)
    }

    fn clear(&mut self, key: &SeriesKey, context: &Context<'_>, message: impl Fn(&str) -> String) -> Option<Finding> {
        let now = context.store.id(key).and_then(|id| context.store.latest(id)).map_or(0.0, |(_, value)| value);
        self.over(message(&self.subject()), now)
    }

    fn over(&mut self, message: String, now: f64) -> Option<Finding> {
        let finding = self.finding(Phase::Cleared, message, now);
        self.firing = None;
        finding
    }

    fn finding(&self, phase: Phase, message: String, value: f64) -> Option<Finding> {
        let firing = self.firing.as_ref()?;
        Some(Finding {
            metric: self.rule.metric,
            labels: firing.labels.clone(),
            phase,
            severity: Severity::Warn,
            value,
            threshold: firing.growth.limit,
            message,
            since: firing.since,
            count: 1,
            source: "samples",
            evidence: Evidence::new(),
        })
    }

    fn gone(&mut self) -> Option<Finding> {
        let last = self.firing.as_ref()?.growth.last;
        self.over(format!("{} is no longer reported", self.subject()), last)
    }
}

impl Analyzer for Leak {
    fn reconfigure(&mut self, config: &Config) {
        // From the first floor to the last one it shall be as long as that.
        let least = config.analyzer.leak_min_observation;
        self.least = least + least / 10;
        self.r_squared = config.analyzer.leak_r_squared_threshold;
    }

    fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        if let Some(memory) = memory(key) {
            self.memory.insert(memory, id);
            return false;
        }
        let Some(process) = process(key.labels()) else { return false };
        if let Some(companion) = companion(key) {
            self.companions.entry(process).or_default().insert(companion, id);
            return false;
        }
        let Some(rule) = RULES.iter().find(|rule| rule.metric == key.metric().name) else { return false };
        self.watches.insert(id, Watch { rule, process, start: None, due: None, contrary: 0, firing: None });
        true
    }

    fn forget(&mut self, _: Timestamp, id: SeriesId, key: &SeriesKey, findings: &mut Vec<Finding>) {
        if let Some(mut watch) = self.watches.remove(&id) {
            findings.extend(watch.gone());
        }
        if let Some(memory) = memory(key).filter(|memory| self.memory.get(memory) == Some(&id)) {
            self.memory.remove(&memory);
        }
        if let Some((process, companion)) = process(key.labels()).zip(companion(key))
            && let Some(companions) = self.companions.get_mut(&process)
        {
            if companions.get(&companion) == Some(&id) {
                companions.remove(&companion);
            }
            if companions.is_empty() {
                self.companions.remove(&process);
            }
        }
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, _: f64, store: &Store, findings: &mut Vec<Finding>) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        if !watch.is_due(at, id) {
            return;
        }
        let context = Context {
            at,
            store,
            least: self.least,
            r_squared: self.r_squared,
            companions: self.companions.get(&watch.process),
            memory: &self.memory,
        };
        findings.extend(watch.look(id, &context));
    }

    fn tick(&mut self, at: Timestamp, store: &Store, findings: &mut Vec<Finding>) {
        self.silence.tick(at);
        for (id, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.firing.is_some()) {
            let Some((last, _)) = store.latest(*id) else { continue };
            if self.silence.since(last, at) > PATIENCE {
                findings.extend(watch.gone());
            }
        }
    }
}
