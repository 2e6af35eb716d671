//! Decides when the agent does less, because it costs more than its budget, and when it does all of it again.
//!
//! Pure: measurements in, steps out; time is counted in intervals of `[agent] collect_interval_secs`. Processor time and memory
//! have a ladder each, with the cheapest loss first, and what is shed is what either of them wants. Never shed are `oom` and
//! `hung_task`, which cost nothing while nothing happens. Measuring and doing are the business of `overhead`.

use crate::config::Config;

/// Intervals in a row over the budget before more is shed.
const OVER: u32 = 3;
/// Intervals in a row well below the budget before something is taken back.
const HOLD: u32 = 6;
/// The longest such wait: it doubles where what was taken back had to be shed again.
const LONGEST_HOLD: u32 = 180;
/// What counts as well below: this part of the budget.
const WELL_BELOW: f64 = 0.7;

/// What the budget is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Processor time in percent of one core.
    Cpu,
    /// Resident memory and BPF maps in bytes.
    Memory,
}

impl Resource {
    /// Both, in the order of everything that comes in pairs here.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Memory];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// One thing to do less of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Unused memory goes back to the system, once.
    Trim,
    /// One block request in so many is looked at.
    Sample(u32),
    /// Collectors run so many times as rarely.
    Intervals(u32),
    /// A probe is taken out of the kernel.
    Suspend(&'static str),
}

impl Shed {
    /// What is done and what that costs, in words.
    pub fn words(self) -> (String, String) {
        match self {
            Self::Trim => ("gives unused memory back to the system".into(), "nothing".into()),
            Self::Sample(one_in) => (
                format!("looks at one block request in {one_in}"),
                format!("block I/O latencies are estimates from one request in {one_in}, and most slow requests are not told of"),
            ),
            Self::Intervals(factor) => (
                format!("collects metrics {factor} times as rarely"),
                format!("conditions on polled metrics are noticed up to {factor} times as late"),
            ),
            Self::Suspend(probe) => (
                format!("takes the probe {probe} out of the kernel"),
                format!("the signal {probe} has only what stands in for it"),
            ),
        }
    }
}

/// One step on the way down or back.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Whose budget.
    pub resource: Resource,
    /// What it costs, as measured; in the resource's unit.
    pub measured: f64,
    /// What it may cost.
    pub budget: f64,
    /// What is shed from now on, or no more.
    pub shed: Shed,
    /// Whether it is shed from now on.
    pub more: bool,
    /// Steps shed now: with none everything is done again.
    pub level: usize,
    /// Steps that there are.
    pub levels: usize,
}

/// Everything that is shed at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    /// One block request in so many is looked at.
    pub one_in: u32,
    /// Collectors run so many times as rarely.
    pub factor: u32,
    /// Probes that are out of the kernel.
    pub suspended: Vec<&'static str>,
}

/// The steps of one resource, and where it is on them.
#[derive(Debug)]
struct Ladder {
    steps: Vec<Shed>,
    level: usize,
    over: u32,
    below: u32,
    hold: u32,
    /// Intervals since something was taken back.
    since_back: u32,
}

impl Ladder {
    fn new(steps: Vec<Shed>) -> Self {
        Self { steps, level: 0, over: 0, below: 0, hold: HOLD, since_back: u32::MAX }
    }

    /// One interval passed; the step that it led to, and whether that is one more.
    fn observe(&mut self, measured: f64, budget: f64) -> Option<(Shed, bool)> {
        self.since_back = self.since_back.saturating_add(1);
        self.over = if measured > budget { self.over + 1 } else { 0 };
        self.below = if measured < budget * WELL_BELOW { self.below.saturating_add(1) } else { 0 };
        if self.over >= OVER {
            self.over = 0;
            let shed = *self.steps.get(self.level)?;
            self.level += 1;
            if self.since_back <= self.hold.saturating_mul(2) {
                self.hold = (self.hold * 2).min(LONGEST_HOLD);
            }
            return Some((shed, true));
        }
        if self.level == 0 {
            if self.since_back > self.hold.saturating_mul(4) {
                self.hold = HOLD;
            }
            return None;
        }
        if self.below < self.hold {
            return None;
        }
        (self.below, self.since_back) = (0, 0);
        self.level -= 1;
        self.steps.get(self.level).map(|shed| (*shed, false))
    }
}

/// Both ladders and their budgets.
#[derive(Debug)]
pub struct Governor {
    ladders: [Ladder; 2],
    budgets: [f64; 2],
}

impl Governor {
    /// One that sheds nothing yet.
    pub fn new(config: &Config) -> Self {
        Self { ladders: Resource::ALL.map(|resource| Ladder::new(steps(resource, config))), budgets: budgets(config) }
    }

    /// Takes over other budgets. What is shed stays so, as far as it is still there.
    pub fn reconfigure(&mut self, config: &Config) {
        self.budgets = budgets(config);
        for (ladder, resource) in self.ladders.iter_mut().zip(Resource::ALL) {
            ladder.steps = steps(resource, config);
            ladder.level = ladder.level.min(ladder.steps.len());
        }
    }

    /// One interval passed, with these costs in percent of one core and in bytes.
    pub fn observe(&mut self, measured: [f64; 2]) -> Vec<Step> {
        let mut steps = Vec::new();
        let resources = Resource::ALL.into_iter().zip(measured).zip(self.budgets);
        for (((resource, measured), budget), ladder) in resources.zip(&mut self.ladders) {
            if let Some((shed, more)) = ladder.observe(measured, budget) {
                let (level, levels) = (ladder.level, ladder.steps.len());
                steps.push(Step { resource, measured, budget, shed, more, level, levels });
            }
        }
        steps
    }

    /// By resource, how many steps are shed.
    pub fn levels(&self) -> [usize; 2] {
        self.ladders.each_ref().map(|ladder| ladder.level)
    }

    /// All that is shed.
    pub fn effort(&self) -> Effort {
        let mut effort = Effort { one_in: 1, factor: 1, suspended: Vec::new() };
        for ladder in &self.ladders {
            for shed in ladder.steps.iter().take(ladder.level) {
                match *shed {
                    Shed::Trim => {}
                    Shed::Sample(one_in) => effort.one_in = effort.one_in.max(one_in),
                    Shed::Intervals(factor) => effort.factor = effort.factor.max(factor),
                    Shed::Suspend(probe) if effort.suspended.contains(&probe) => {}
                    Shed::Suspend(probe) => effort.suspended.push(probe),
                }
            }
        }
        effort
    }
}

#[expect(clippy::cast_precision_loss, reason = "a budget of petabytes is out of reach")]
fn budgets(config: &Config) -> [f64; 2] {
    [config.agent.cpu_budget_percent, config.agent.memory_budget as f64]
}

/// What there is to shed with this configuration, in order.
fn steps(resource: Resource, config: &Config) -> Vec<Shed> {
    let attached = |probe: &str| config.ebpf.enabled && config.ebpf.probes.iter().any(|name| name == probe);
    let mut steps = Vec::new();
    match resource {
        // Looking at fewer requests frees no memory.
        Resource::Memory => steps.push(Shed::Trim),
        Resource::Cpu if attached("block_io") => steps.extend([10, 100].map(Shed::Sample)),
        Resource::Cpu => {}
    }
    steps.extend([2, 4].map(Shed::Intervals));
    steps.extend(["fd", "tcp_retransmit", "block_io"].into_iter().filter(|probe| attached(probe)).map(Shed::Suspend));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn governor() -> Governor {
        let mut config = Config::default();
        (config.agent.cpu_budget_percent, config.agent.memory_budget) = (2.0, 64 << 20);
        Governor::new(&config)
    }

    /// The levels after so many intervals at these costs.
    fn after(governor: &mut Governor, intervals: u32, cpu: f64, mebibytes: f64) -> [usize; 2] {
        (0..intervals).for_each(|_| drop(governor.observe([cpu, mebibytes * MIB])));
        governor.levels()
    }

    #[test]
    fn work_is_shed_in_its_order_and_taken_back_in_reverse() {
        let mut governor = governor();
        let mut shed = Vec::new();
        for _ in 0..40 {
            shed.extend(governor.observe([5.0, 0.0]).into_iter().map(|step| step.shed));
        }
        let suspended = ["fd", "tcp_retransmit", "block_io"];
        let order = [Shed::Sample(10), Shed::Sample(100), Shed::Intervals(2), Shed::Intervals(4)];
        let order: Vec<Shed> = order.into_iter().chain(suspended.map(Shed::Suspend)).collect();
        assert_eq!(shed, order);
        assert_eq!(governor.effort(), Effort { one_in: 100, factor: 4, suspended: suspended.into() });
        let mut back = Vec::new();
        for _ in 0..7 * HOLD {
            back.extend(governor.observe([1.0, 0.0]).into_iter().map(|step| (step.shed, step.more)));
        }
        assert_eq!(back, order.into_iter().rev().map(|shed| (shed, false)).collect::<Vec<_>>());
        assert_eq!(governor.effort(), Effort { one_in: 1, factor: 1, suspended: Vec::new() });
    }

    #[test]
    fn a_peak_is_no_reason() {
        let mut governor = governor();
        for _ in 0..100 {
            assert_eq!(after(&mut governor, OVER - 1, 50.0, 500.0), [0, 0]);
            assert_eq!(after(&mut governor, 1, 2.0, 64.0), [0, 0], "the budget itself is within it");
        }
    }

    #[test]
    fn little_below_the_budget_nothing_changes() {
        let mut governor = governor();
        assert_eq!(after(&mut governor, OVER, 3.0, 0.0), [1, 0]);
        assert_eq!(after(&mut governor, 1000, 1.5, 0.0), [1, 0]);
    }

    #[test]
    fn memory_is_first_given_back_and_never_sampled() {
        let mut governor = governor();
        let step = (0..OVER).flat_map(|_| governor.observe([0.0, 80.0 * MIB])).next().unwrap();
        let expected = Step {
            resource: Resource::Memory,
            measured: 80.0 * MIB,
            budget: 64.0 * MIB,
            shed: Shed::Trim,
            more: true,
            level: 1,
            levels: 6,
        };
        assert_eq!(step, expected);
        assert_eq!(after(&mut governor, 100, 0.0, 80.0), [0, 6]);
        assert_eq!(governor.effort().one_in, 1);
        assert_eq!(governor.effort().suspended, ["fd", "tcp_retransmit", "block_io"]);
    }

    #[test]
    fn what_had_to_be_shed_again_is_taken_back_later_and_later() {
        let mut governor = governor();
        let mut hold = HOLD;
        assert_eq!(after(&mut governor, OVER, 3.0, 0.0), [1, 0]);
        for _ in 0..10 {
            assert_eq!(after(&mut governor, hold - 1, 1.0, 0.0), [1, 0]);
            assert_eq!(after(&mut governor, 1, 1.0, 0.0), [0, 0]);
            assert_eq!(after(&mut governor, OVER, 3.0, 0.0), [1, 0]);
            hold = (hold * 2).min(LONGEST_HOLD);
        }
        assert_eq!(hold, LONGEST_HOLD);
        assert_eq!(after(&mut governor, hold, 1.0, 0.0), [0, 0]);
        // A long peace is forgotten for.
        assert_eq!(after(&mut governor, 5 * LONGEST_HOLD, 1.0, 0.0), [0, 0]);
        assert_eq!(after(&mut governor, OVER, 3.0, 0.0), [1, 0]);
        assert_eq!(after(&mut governor, HOLD, 1.0, 0.0), [0, 0]);
    }

    #[test]
    fn there_are_no_steps_for_probes_that_are_not_wanted() {
        let mut config = Config::default();
        config.ebpf.enabled = false;
        assert_eq!(steps(Resource::Cpu, &config), [2, 4].map(Shed::Intervals));
        let mut governor = governor();
        assert_eq!(after(&mut governor, 100, 5.0, 0.0), [7, 0]);
        governor.reconfigure(&config);
        assert_eq!(governor.levels(), [2, 0]);
    }
}
