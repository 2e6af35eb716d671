//! When growth is that of a leak, and what is known of it.

use std::time::Duration;

use super::{CGROUP, Companions, FD_USAGE, MEMORY_AVAILABLE, Memory, PATIENCE, PREFIX, Rule, START};
use crate::engine::line::{Line, Of, Point, blocks, cover};
use crate::engine::store::{SeriesId, Store};
use crate::model::Timestamp;

/// Blocks whose floors a line is fitted to, and how many of them must have samples.
const BLOCKS: usize = 12;
const LEAST_BLOCKS: usize = 9;
/// Most by which a floor may be below the one before, by the growth over the whole time.
const MOST_FALL: f64 = 0.1;
/// Growth of the last third of the time, by that of either other one: what levels off has less.
const LEAST_PACE: f64 = 0.7;
/// Growth of the first third, by that of the whole: less is growth that began later.
const LEAST_BEGIN: f64 = 0.5;
/// Part of the growth that must be above every earlier floor.
const LEAST_NEWS: f64 = 0.5;
/// How far back earlier floors count.
const REMEMBERED: Duration = Duration::from_secs(2 * 86_400);
/// Growth is watched for this part of the time that is left, but no longer than a day: connections and caches that follow the time
/// of day grow for half of it.
const WATCHED_PART: f64 = 0.5;
const LONGEST_WATCH: Duration = Duration::from_secs(86_400);
/// Growth matters that is this part of what there was, or reaches its limit within [`SOON`]; none that takes longer than [`FAR`].
const LEAST_GROWTH: f64 = 0.1;
const SOON: f64 = 86_400.0;
const FAR: f64 = 14.0 * 86_400.0;
/// Growth below this part of what was told is none.
const STILL: f64 = 0.25;

/// Growth that has proved itself.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    pub span: Duration,
    pub line: Line,
    /// Floors of the first and the last block.
    pub first: f64,
    pub last: f64,
    /// Seconds until `limit` at this pace.
    pub left: Option<f64>,
    pub limit: Option<f64>,
}

/// When a process was started, in Unix time, and when that was first seen.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub secs: f64,
    pub seen: Timestamp,
}

/// What a look needs beside the series itself.
pub struct Context<'a> {
    pub at: Timestamp,
    pub store: &'a Store,
    pub least: Duration,
    pub r_squared: f64,
    pub companions: Option<&'a Companions>,
    pub memory: &'a Memory,
}

impl Context<'_> {
    fn companion(&self, metric: &'static str) -> Option<SeriesId> {
        self.companions?.get(&(metric, String::new())).copied()
    }

    /// The latest value of a series that belongs to the present: one that stopped long ago says nothing.
    fn latest(&self, id: SeriesId) -> Option<f64> {
        let (time, value) = self.store.latest(id)?;
        (self.at.since(time) <= PATIENCE).then_some(value)
    }

    /// The process' start, and since when it has been seen; `known` is the last answer.
    pub fn start(&self, known: Option<Start>) -> Option<Start> {
        let id = self.companion(START)?;
        let (_, start) = self.store.latest(id)?;
        let is_same = |other: f64| (other - start).abs() < f64::EPSILON;
        if let Some(known) = known.filter(|known| is_same(known.secs)) {
            return Some(known);
        }
        let same = self.store.newest(id).take_while(|(_, value)| is_same(*value));
        Some(Start { secs: start, seen: same.last()?.0 })
    }

    /// The value at which `rule`'s resource is used up for the process.
    fn limit(&self, rule: &Rule, id: SeriesId, now: f64) -> Option<f64> {
        if !rule.is_memory {
            let of_usage = self.companion(FD_USAGE)?;
            let usage = self.latest(of_usage).filter(|usage| *usage > 0.0)?;
            let (time, _) = self.store.latest(of_usage)?;
            // Of the same run, of which one may have arrived and the other not yet.
            let (_, open) = self.store.newest(id).find(|(other, _)| *other <= time)?;
            return Some((open / usage * 100.0).round());
        }
        let read = |metric: &'static str, cgroup: &str| self.latest(*self.memory.get(&(metric, cgroup.to_owned()))?);
        let of_host = read(MEMORY_AVAILABLE, "").map(|available| now + available);
        let cgroup = self.companion(START).and_then(|id| self.store.key(id)?.labels().get("cgroup"));
        let of_cgroup = cgroup.and_then(|cgroup| {
            let [limit, used] = CGROUP.map(|metric| read(metric, cgroup));
            // Others of the cgroup take part of its limit.
            Some(now + (limit? - used.unwrap_or(now)).max(0.0))
        });
        of_host.into_iter().chain(of_cgroup).reduce(f64::min)
    }

    fn floors(&self, id: SeriesId, end: Timestamp, span: Duration, since: Timestamp) -> Vec<Point> {
        let from = end.minus(span).max(since);
        blocks(self.store.window(id, from, end), end, span, BLOCKS, Of::Least)
    }

    /// Growth over the latest `span`, if it is that of a leak.
    fn growth(&self, rule: &Rule, id: SeriesId, span: Duration, since: Timestamp) -> Option<Growth> {
        let floors = self.floors(id, self.at, span, since);
        if floors.len() < LEAST_BLOCKS || !cover(&floors, span, span / 6) {
            return None;
        }
        let line = Line::through(&floors)?;
        let (first, last) = (floors.first()?.value, floors.last()?.value);
        let grown = last - first;
        if !(line.slope > 0.0 && grown >= rule.floor && line.r_squared >= self.r_squared) {
            return None;
        }
        let falls = |pair: &[Point]| matches!(pair, [a, b] if a.value - b.value > MOST_FALL * grown);
        if floors.windows(2).any(falls) {
            return None;
        }
        let third = floors.len() / 3;
        let slope = |points: Option<&[Point]>| Some(Line::through(points?)?.slope);
        let (begin, end) = (slope(floors.get(..=third))?, slope(floors.get(floors.len() - third - 1..))?);
        let middle = slope(floors.get(third..=floors.len() - third))?;
        if !(begin >= LEAST_BEGIN * line.slope && end >= LEAST_PACE * begin.max(middle)) {
            return None;
        }
        let now = self.latest(id)?;
        let limit = self.limit(rule, id, now);
        let left = limit.map(|limit| (limit - line.now).max(0.0) / line.slope);
        if left.is_some_and(|left| left > FAR) {
            return None;
        }
        let matters = grown >= LEAST_GROWTH * first || left.is_some_and(|left| left <= SOON);
        matters.then_some(Growth { span, line, first, last, left, limit })
    }

    /// A leak, watched for as long as there is time for.
    pub fn leak(&self, rule: &Rule, id: SeriesId, since: Timestamp) -> Option<Growth> {
        let mut growth = self.growth(rule, id, self.least, since)?;
        let wanted =
            growth.left.map_or(self.least, |left| Duration::try_from_secs_f64(left * WATCHED_PART).unwrap_or(self.least));
        let wanted = wanted.min(LONGEST_WATCH);
        if wanted > self.least {
            growth = self.growth(rule, id, wanted, since)?;
        }
        // Earlier floors, of blocks as long as those.
        let begun = self.at.minus(growth.span);
        let before = begun.since(since.max(self.at.minus(REMEMBERED)));
        let count = (before.as_secs_f64() / growth.span.as_secs_f64() * BLOCKS as f64) as usize;
        let earlier = blocks(self.store.window(id, begun.minus(before), begun), begun, before, count.max(1), Of::Least);
        let highest = earlier.iter().map(|point| point.value).fold(growth.first, f64::max);
        (growth.last - highest >= LEAST_NEWS * (growth.last - growth.first)).then_some(growth)
    }

    /// Whether what was told no longer goes on.
    pub fn is_over(&self, id: SeriesId, told: &Growth) -> bool {
        let floors = self.floors(id, self.at, self.least, Timestamp::from_nanos(i64::MIN));
        if floors.len() < LEAST_BLOCKS || !cover(&floors, self.least, self.least / 4) {
            return false;
        }
        Line::through(&floors).is_some_and(|line| line.slope < STILL * told.line.slope)
    }

    /// What grew by how much since `from`: the kinds of `rule`'s resource, the largest growth first.
    pub fn kinds(&self, rule: &Rule, from: Timestamp) -> Vec<(String, f64)> {
        let of_rule = self.companions.into_iter().flatten().filter(|((metric, _), _)| *metric == rule.kinds);
        let mut kinds: Vec<(String, f64)> = of_rule
            .filter_map(|((_, kind), id)| {
                let first = self.store.window(*id, from, self.at).next()?.1;
                Some((kind.clone(), self.latest(*id)? - first))
            })
            .collect();
        kinds.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        kinds
    }

    /// The commonest directory or peer of the descriptors, with their number.
    pub fn prefix(&self) -> Option<(String, f64)> {
        let prefixes = self.companions.into_iter().flatten().filter(|((metric, _), _)| *metric == PREFIX);
        let counted = prefixes.filter_map(|((_, prefix), id)| Some((prefix.clone(), self.latest(*id)?)));
        counted.max_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}
