//! Series with anomalies whose places are known, and how well a score finds them.
//!
//! What they look like is drawn at random from families that hosts and services know: daily traffic, bursts, counts, steps, drifts. All
//! numbers come from a seed, so that a figure stands for the same series on every run.

use std::f64::consts::TAU;
use std::ops::Range;

/// xorshift64*: the same numbers on every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to 1, neither of them.
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    pub fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.unit()
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (TAU * self.unit()).cos()
    }

    /// Student's t with three degrees of freedom: heavy tails.
    pub fn heavy(&mut self) -> f64 {
        let chi: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / (chi / 3.0).sqrt()
    }

    fn sign(&mut self) -> f64 {
        if self.below(2) == 0 { -1.0 } else { 1.0 }
    }
}

/// One series.
pub struct Labelled {
    /// Family and number.
    pub name: String,
    /// Seconds between two rows.
    pub interval: i64,
    pub values: Vec<f64>,
    /// Rows of each anomaly.
    pub anomalies: Vec<Range<usize>>,
}

impl Labelled {
    pub fn labels(&self) -> Vec<bool> {
        (0..self.values.len()).map(|row| self.anomalies.iter().any(|range| range.contains(&row))).collect()
    }
}

/// A way in which a series behaves.
struct Family {
    name: &'static str,
    interval: i64,
    rows: usize,
    /// Rows of its shortest rhythm; 0 where it has none.
    period: usize,
    /// Anomalies that mean something in it.
    kinds: &'static [Kind],
    /// The usual values and the usual deviation from what is expected.
    make: fn(&mut Random, &Family) -> (Vec<f64>, f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Spike,
    Shift,
    Context,
    Flat,
    Noise,
}
use Kind::{Context, Flat, Noise, Shift, Spike};

const FAMILIES: &[Family] = &[
    Family {
        name: "daily traffic",
        interval: 300,
        rows: 4032,
        period: 288,
        kinds: &[Spike, Shift, Context, Flat],
        make: traffic,
    },
    Family { name: "hourly traffic", interval: 3600, rows: 1440, period: 24, kinds: &[Spike, Shift, Context], make: traffic },
    Family { name: "waves", interval: 3600, rows: 1680, period: 0, kinds: &[Spike, Shift, Noise], make: waves },
    Family { name: "smooth wave", interval: 3600, rows: 1420, period: 0, kinds: &[Spike, Flat], make: smooth },
    Family { name: "bursts", interval: 300, rows: 4000, period: 0, kinds: &[Spike, Shift], make: bursts },
    Family { name: "latency", interval: 300, rows: 3000, period: 0, kinds: &[Shift, Noise, Flat], make: latency },
    Family { name: "drift", interval: 300, rows: 4000, period: 0, kinds: &[Spike, Flat, Noise], make: drift },
    Family { name: "counts", interval: 60, rows: 3000, period: 0, kinds: &[Spike, Shift], make: counts },
    Family { name: "steps", interval: 300, rows: 3000, period: 0, kinds: &[Spike], make: steps },
    Family { name: "cron", interval: 10, rows: 7200, period: 360, kinds: &[Spike, Shift, Flat], make: cron },
    Family { name: "schedule", interval: 300, rows: 4032, period: 288, kinds: &[Spike, Context, Flat], make: schedule },
    Family { name: "heavy tails", interval: 300, rows: 3000, period: 0, kinds: &[Shift, Spike], make: heavy },
];

fn rows(family: &Family) -> impl Iterator<Item = f64> {
    (0..family.rows).map(|row| row as f64)
}

fn traffic(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let day = family.period as f64;
    let (base, depth, phase) = (10_f64.powf(random.between(0.0, 7.0)), random.between(0.3, 0.8), random.between(0.0, TAU));
    let (weekend, second) = (random.between(0.4, 1.0), random.between(0.0, 0.25));
    let noise = base * random.between(0.02, 0.08);
    let mut carried = 0.0;
    let values = rows(family)
        .map(|row| {
            carried = 0.6 * carried + 0.8 * random.normal();
            let turn = TAU * row / day + phase;
            let week = if (row / day) as usize % 7 >= 5 { weekend } else { 1.0 };
            base * week * (1.0 + depth * turn.sin() + second * (2.0 * turn).sin()) + noise * carried
        })
        .collect();
    (values, noise)
}

fn waves(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (size, trend) = (random.between(10.0, 1000.0), random.between(-0.002, 0.004));
    let parts: Vec<(f64, f64, f64)> =
        [12.0, 24.0, 168.0].map(|period| (period, size * random.between(0.1, 1.0), random.between(0.0, TAU))).to_vec();
    let noise = size * random.between(0.03, 0.15);
    let values = rows(family)
        .map(|row| {
            let waves: f64 = parts.iter().map(|(period, size, phase)| size * (TAU * row / period + phase).sin()).sum();
            size * trend * row + waves + noise * random.normal()
        })
        .collect();
    (values, noise)
}

fn smooth(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (period, size) = (random.between(30.0, 250.0), random.between(10.0, 5000.0));
    let noise = size * random.between(0.005, 0.02);
    let values = rows(family).map(|row| size * (TAU * row / period).sin() + size * 2.0 + noise * random.normal()).collect();
    (values, noise)
}

fn bursts(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (base, often) = (random.between(1.0, 100.0), random.between(0.01, 0.05));
    let noise = base * random.between(0.02, 0.1);
    let mut burst: f64 = 0.0;
    let values = rows(family)
        .map(|_| {
            burst *= 0.4;
            if random.unit() < often {
                burst += noise * 10.0 * random.unit().powf(-0.3);
            }
            base + burst + noise * random.normal()
        })
        .collect();
    (values, noise * 12.0)
}

fn latency(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (median, width) = (random.between(0.001, 300.0), random.between(0.15, 0.5));
    let values = rows(family).map(|_| median * (width * random.normal()).exp()).collect();
    (values, median * width * 1.3)
}

fn drift(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (mut level, step) = (random.between(40.0, 90.0), random.between(0.05, 0.2));
    let noise = random.between(0.2, 0.6);
    let values = rows(family)
        .map(|_| {
            level += step * random.normal() + 0.002 * (65.0 - level);
            level + noise * random.normal()
        })
        .collect();
    (values, noise + step)
}

fn counts(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let mean = random.between(0.3, 8.0);
    let values = rows(family)
        .map(|_| {
            // Knuth's method for Poisson numbers.
            let (limit, mut product, mut count) = ((-mean).exp(), random.unit(), 0.0);
            while product > limit {
                product *= random.unit();
                count += 1.0;
            }
            count
        })
        .collect();
    (values, mean.sqrt() + 1.0)
}

fn steps(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let size = 10_f64.powf(random.between(0.0, 6.0));
    let mut level = size * 10.0;
    let values = rows(family)
        .map(|_| {
            if random.unit() < 0.02 {
                level += size * random.sign() * (1.0 + random.below(3) as f64) * if level < size * 6.0 { 0.3 } else { 1.0 };
            }
            level
        })
        .collect();
    (values, size * 3.0)
}

fn cron(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (base, height) = (random.between(3.0, 15.0), random.between(15.0, 50.0));
    let (long, noise) = (6 + random.below(12), random.between(0.5, 2.0));
    let values = rows(family)
        .map(|row| {
            let busy = (row as usize % family.period) < long;
            (base + if busy { height } else { 0.0 } + noise * random.heavy()).max(0.0)
        })
        .collect();
    (values, noise * 3.0)
}

fn schedule(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (low, high) = (random.between(10.0, 30.0), random.between(50.0, 90.0));
    let (from, to) = (60 + random.below(50), 160 + random.below(60));
    let noise = random.between(1.0, 4.0);
    let values = rows(family)
        .map(|row| {
            let busy = (from..to).contains(&(row as usize % family.period));
            if busy { high + noise * random.normal() } else { low + noise * random.normal() }
        })
        .collect();
    (values, noise)
}

fn heavy(random: &mut Random, family: &Family) -> (Vec<f64>, f64) {
    let (base, noise) = (random.between(-50.0, 50.0), random.between(1.0, 10.0));
    let values = rows(family).map(|_| base + noise * random.heavy()).collect();
    (values, noise * 2.5)
}

/// `count` series of each family.
pub fn labelled(seed: u64, count: usize) -> Vec<Labelled> {
    let mut all = Vec::new();
    for (index, family) in FAMILIES.iter().enumerate() {
        for number in 0..count {
            let mut random = Random::new(seed.wrapping_mul(1000) + (index * 97 + number) as u64 + 1);
            let (mut values, deviation) = (family.make)(&mut random, family);
            let mut anomalies = Vec::new();
            let wanted = 2 + random.below(4);
            // Each has a part of the series of its own, so that there is quiet before it.
            let begin = family.rows / 4;
            let part = (family.rows - begin) / wanted;
            for slot in 0..wanted {
                let kind = family.kinds[random.below(family.kinds.len())];
                let at = begin + slot * part + random.below(part / 2);
                if let Some(range) = spoil(&mut random, family, &mut values, deviation, kind, at, part / 2) {
                    anomalies.push(range);
                }
            }
            all.push(Labelled { name: format!("{} {number}", family.name), interval: family.interval, values, anomalies });
        }
    }
    all
}

/// Puts one anomaly into a series; its rows.
fn spoil(
    random: &mut Random,
    family: &Family,
    values: &mut [f64],
    deviation: f64,
    kind: Kind,
    at: usize,
    room: usize,
) -> Option<Range<usize>> {
    let rows = match kind {
        Spike => 1 + random.below(3),
        Context => (family.period / 12 + random.below(family.period / 6)).max(3),
        Shift | Flat | Noise => 25 + random.below(60),
    };
    let range = at..at + rows.min(room);
    let size = deviation * random.between(6.0, 14.0) * if random.below(3) == 0 { -1.0 } else { 1.0 };
    let copied: Vec<f64> = values.to_vec();
    let local: f64 = values[range.clone()].iter().sum::<f64>() / range.len() as f64;
    for row in range.clone() {
        values[row] = match kind {
            Spike => values[row] + size * random.between(0.8, 1.2),
            Shift => values[row] + size * 0.5,
            Context => copied[row - family.period / 2],
            Flat => copied[at],
            Noise => local + (values[row] - local) * 1.0 + deviation * 5.0 * random.normal(),
        };
    }
    // The opposite time of day may look the same.
    let differs = range.clone().filter(|row| (values[*row] - copied[*row]).abs() > 4.0 * deviation).count();
    (kind != Context || differs * 2 > range.len()).then_some(range)
}

/// The area under the curve of precision by recall (average precision), rows being what is found.
pub fn average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let positives = labels.iter().filter(|label| **label).count() as f64;
    let (mut hits, mut seen, mut area) = (0.0, 0.0, 0.0);
    let mut rest = ranked.as_slice();
    // Equal scores stand and fall together.
    while let Some((score, _)) = rest.first() {
        let equal = rest.iter().take_while(|(other, _)| other == score).count();
        let found = rest[..equal].iter().filter(|(_, label)| *label).count() as f64;
        hits += found;
        seen += equal as f64;
        area += found / positives * hits / seen;
        rest = &rest[equal..];
    }
    area
}

/// The best F1 over all thresholds where an anomaly is found by any of its rows, and a false alarm is a run of rows outside.
pub fn best_f1(scores: &[f64], anomalies: &[Range<usize>]) -> f64 {
    let mut limits: Vec<f64> = scores.to_vec();
    limits.sort_by(|a, b| b.total_cmp(a));
    limits.dedup();
    let most = limits.len().min(scores.len() / 10);
    let at = |limit: f64| {
        let found = anomalies.iter().filter(|range| scores[(*range).clone()].iter().any(|score| *score >= limit)).count();
        let mut last = None;
        let mut false_alarms = 0;
        for (row, _) in scores.iter().enumerate().filter(|(_, score)| **score >= limit) {
            // What follows an anomaly or another alarm at once tells of the same.
            let near = anomalies.iter().any(|range| (range.start..range.end + 5).contains(&row));
            if !near && last.is_none_or(|last| row > last + 5) {
                false_alarms += 1;
            }
            if !near {
                last = Some(row);
            }
        }
        2.0 * found as f64 / (found + false_alarms + anomalies.len()) as f64
    };
    let step = (most / 200).max(1);
    limits.iter().take(most).step_by(step).chain(limits.iter().take(60)).map(|limit| at(*limit)).fold(0.0, f64::max)
}
