//! The anomaly score: how well it ranks, beside what is simpler, and what must hold for any input.

use sysops_agent::engine::score::Scorer;
use sysops_agent::model::Timestamp;

use super::labelled::{Labelled, Random, average_precision, best_f1, labelled};

fn scores(series: &Labelled) -> Vec<f64> {
    let mut scorer = Scorer::new();
    let rows = (0..).zip(&series.values);
    rows.map(|(row, value)| scorer.score(Timestamp::from_secs(1_700_000_000 + series.interval * row), *value)).collect()
}

/// Standard deviations from the mean of the last 360 rows.
fn plain_zscore(values: &[f64]) -> Vec<f64> {
    let score = |row: usize| {
        let window = &values[row.saturating_sub(360)..row];
        let count = window.len() as f64;
        let mean = window.iter().sum::<f64>() / count;
        let deviation = (window.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        if row < 20 || deviation == 0.0 { 0.0 } else { (values[row] - mean).abs() / deviation }
    };
    (0..values.len()).map(score).collect()
}

/// Mean deviations from the exponential moving average of weight 0.1.
fn plain_ema(values: &[f64]) -> Vec<f64> {
    let (mut mean, mut deviation) = (values[0], 0.0);
    let score = |(row, value): (usize, &f64)| {
        let off = (value - mean).abs();
        let score = if row < 20 || deviation == 0.0 { 0.0 } else { off / deviation };
        mean += 0.1 * (value - mean);
        deviation += 0.1 * (off - deviation);
        score
    };
    values.iter().enumerate().map(score).collect()
}

/// Seeds that the score was not tuned on (those were 1 and 2). `-- --nocapture` shows the figures by family.
#[test]
fn anomalies_rank_above_the_rest_and_better_than_plain_statistics_rank_them() {
    let all = labelled(21, 2);
    let mut sums = [[0.0; 2]; 3];
    let mut quiet = (0, 0);
    for series in &all {
        let labels = series.labels();
        let mut figures = [[0.0; 2]; 3];
        let ours = scores(series);
        quiet.0 += ours.iter().zip(&labels).filter(|(score, label)| !**label && **score >= 0.1).count();
        quiet.1 += labels.iter().filter(|label| !**label).count();
        for (figures, scores) in figures.iter_mut().zip([ours, plain_zscore(&series.values), plain_ema(&series.values)]) {
            *figures = [average_precision(&scores, &labels), best_f1(&scores, &series.anomalies)];
        }
        println!("{:<20} AUC-PR, F1 of score, z-score, EMA: {figures:.2?}", series.name);
        for (sum, figure) in sums.iter_mut().flatten().zip(figures.iter().flatten()) {
            *sum += figure / all.len() as f64;
        }
    }
    println!("{:<20} AUC-PR, F1 of score, z-score, EMA: {sums:.3?}", "mean");
    let [ours, zscore, ema] = sums;
    assert!(ours[0] > 0.7 && ours[1] > 0.8, "{sums:?}");
    assert!(ours[0] > zscore[0] + 0.3 && ours[0] > ema[0] + 0.3, "{sums:?}");
    assert!(ours[1] > zscore[1] + 0.2 && ours[1] > ema[1] + 0.2, "{sums:?}");
    assert!(quiet.0 * 50 < quiet.1, "{quiet:?} rows of no anomaly are at 0.1 or above");
}

#[test]
fn noise_alone_stays_low_whatever_its_tails() {
    let kinds: [fn(&mut Random) -> f64; 4] = [
        Random::normal,
        Random::heavy,
        |random| random.normal().exp(),
        |random| if random.unit() < 0.01 { 50.0 } else { random.unit() },
    ];
    for (kind, draw) in kinds.into_iter().enumerate() {
        let mut random = Random::new(7);
        let values = (0..5000).map(|_| 20.0 + draw(&mut random)).collect();
        let series = Labelled { name: String::new(), interval: 60, values, anomalies: Vec::new() };
        let scores = scores(&series);
        let at_least = |limit: f64| scores.iter().filter(|score| **score >= limit).count();
        assert!(at_least(0.1) <= 100 && at_least(0.5) <= 15, "{kind}: {} and {} of 5000", at_least(0.1), at_least(0.5));
    }
}

#[test]
fn what_was_never_anything_else_is_not_anomalous_for_a_twitch() {
    let constant = |last: f64| {
        let mut values = vec![50.0; 500];
        values.push(last);
        scores(&Labelled { name: String::new(), interval: 10, values, anomalies: Vec::new() })
    };
    let twitch = constant(50.1);
    assert!(twitch.iter().all(|score| *score < 0.1), "{:?}", twitch.iter().position(|score| *score >= 0.1));
    let spike = constant(5000.0);
    assert!(spike[..500].iter().all(|score| *score == 0.0));
    assert!((0.4..=0.6).contains(&spike[500]), "{}", spike[500]);
}

#[test]
fn a_score_knows_nothing_of_later_rows_and_is_the_same_each_time() {
    for series in labelled(22, 1) {
        let whole = scores(&series);
        assert_eq!(whole, scores(&series));
        let half = Labelled { values: series.values[..series.values.len() / 2].to_vec(), ..series };
        assert_eq!(scores(&half), whole[..half.values.len()]);
        assert!(whole[..24].iter().all(|score| *score == 0.0));
    }
}

#[test]
fn any_input_gives_a_number_from_0_to_1() {
    let numbers = [0.0, -0.0, 1.0, 1e-300, -1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e100, 5.0];
    let jumps = [0, 1, 1, 1, 10, 60, 86_400, -1, -86_400, i64::MAX / 2, i64::MIN / 2];
    for seed in 1..7 {
        let mut random = Random::new(seed);
        let (mut scorer, mut nanos) = (Scorer::new(), 0_i64);
        for step in 0..3000 {
            nanos = nanos.saturating_add(jumps[random.below(jumps.len())].saturating_mul(1_000_000_000));
            // Long quiet stretches let every state settle before it is hit.
            let value = if step % 1000 < 500 { random.normal() } else { numbers[random.below(numbers.len())] };
            let score = scorer.score(Timestamp::from_nanos(nanos), value);
            assert!((0.0..=1.0).contains(&score), "{seed} {step}: {score}");
        }
    }
}

#[test]
fn rows_that_are_missing_do_not_move_the_rhythm() {
    let mut scorer = Scorer::new();
    let mut random = Random::new(3);
    let mut most: f64 = 0.0;
    for hour in 0..24 * 40_i64 {
        let value = 50.0 + 40.0 * (std::f64::consts::TAU * hour as f64 / 24.0).sin() + random.normal();
        // Each week lacks some hours, another number of them each time.
        if hour < 24 * 14 || hour % 168 > hour / 168 {
            let score = scorer.score(Timestamp::from_secs(hour * 3600), value);
            if hour > 24 * 14 {
                most = most.max(score);
            }
        }
    }
    assert!(most < 0.5, "{most}");
}
