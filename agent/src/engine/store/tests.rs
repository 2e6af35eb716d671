use super::block::BLOCK;
use super::*;
use crate::model::{Labels, Metric, Unit};

static METRIC: Metric = Metric::gauge("test_value", Unit::Count, "A value.");

fn key(name: &str) -> SeriesKey {
    SeriesKey::new(&METRIC, Labels::new().with("name", name))
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn all(store: &Store, id: SeriesId) -> Vec<f64> {
    store.window(id, at(i64::MIN), at(i64::MAX)).map(|(_, value)| value).collect()
}

fn insert(store: &mut Store, secs: i64, key: &SeriesKey, value: f64) -> SeriesId {
    match store.insert(at(secs), key, value) {
        Inserted::Known(id) | Inserted::New(id) => id,
        Inserted::Refused => panic!("refused"),
    }
}

#[test]
fn a_ring_holds_exactly_its_capacity() {
    for capacity in [1, 7, BLOCK, BLOCK + 44, 2 * BLOCK - 1, 700] {
        let (mut store, key) = (Store::new(capacity), key("a"));
        for n in 0..2000_i32 {
            let id = insert(&mut store, n.into(), &key, n.into());
            let from = (n + 1 - i32::try_from(capacity).unwrap()).max(0);
            assert_eq!(all(&store, id), (from..=n).map(f64::from).collect::<Vec<_>>());
        }
        let id = store.id(&key).unwrap();
        assert_eq!(store.newest(id).count(), capacity);
        assert_eq!(store.newest(id).next(), Some((at(1999), 1999.0)));
        assert!(store.by_age.len() <= 2 * store.live_chunks + SLACK);
    }
}

#[test]
fn a_smaller_capacity_takes_effect() {
    let (mut store, key) = (Store::new(300), key("a"));
    for n in 0..300 {
        insert(&mut store, n, &key, 0.0);
    }
    store.set_capacity(10);
    let id = insert(&mut store, 300, &key, 1.0);
    assert_eq!(all(&store, id).len(), 10);
}

#[test]
fn a_window_takes_both_ends_and_tolerates_a_clock_that_runs_backward() {
    let (mut store, key) = (Store::new(100), key("a"));
    let mut id = None;
    for (secs, value) in [(10, 1.0), (20, 2.0), (20, 3.0), (5, 4.0), (30, 5.0)] {
        id = Some(insert(&mut store, secs, &key, value));
    }
    let id = id.unwrap();
    assert_eq!(store.window(id, at(10), at(20)).map(|(_, v)| v).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    assert_eq!(store.window(id, at(0), at(9)).map(|(_, v)| v).collect::<Vec<_>>(), [4.0]);
    assert_eq!(store.latest(id), Some((at(30), 5.0)));
    assert_eq!(store.window(id, at(20), at(10)).count(), 0);
}

#[test]
fn the_budget_drops_the_oldest_chunk_of_all_and_counts_it() {
    let mut store = Store { budget: 32 << 10, ..Store::new(usize::MAX) };
    let (quiet, busy) = (key("quiet"), key("busy"));
    let quiet_id = insert(&mut store, 0, &quiet, 42.0);
    let mut busy_id = None;
    for n in 0..40 * BLOCK {
        let incompressible = f64::from_bits(0x3ff0_0000_0000_0000 | (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12);
        busy_id = Some(insert(&mut store, i64::try_from(n).unwrap(), &busy, incompressible));
        assert!(store.bytes() <= store.budget);
    }
    assert!(store.chunks_evicted() >= 9, "{}", store.chunks_evicted());
    // The quiet series' chunk was the oldest; its latest value stays.
    assert!(all(&store, quiet_id).is_empty());
    assert_eq!(store.latest(quiet_id), Some((at(0), 42.0)));
    assert!(all(&store, busy_id.unwrap()).len() > 10 * BLOCK);
    assert_eq!(store.bytes, store.slots.iter().flatten().flat_map(|s| &s.chunks).map(Chunk::bytes).sum::<usize>());
}

#[test]
fn what_comes_out_of_sealed_blocks_is_what_went_in() {
    let columns: [fn(i64) -> f64; 9] = [
        |_| 0.0,
        |_| -0.0,
        |n| n as f64 * 4096.0,
        |n| (n * n % 977) as f64,
        |n| (n % 7) as f64 / 3.0,
        |n| if n % 2 == 0 { 0.0 } else { -0.0 },
        |n| if n % 3 == 0 { f64::MAX } else { f64::MIN },
        |n| f64::from_bits((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2),
        |n| (u64::MAX >> (n % 64)) as f64,
    ];
    let mut store = Store::new(usize::MAX);
    let times = |n: i64| Timestamp::from_nanos(n * 10_000_000_000 + n * n % 5_003 * 1_000_000);
    for (index, column) in columns.iter().enumerate() {
        let key = key(&index.to_string());
        for n in 0..2 * BLOCK as i64 + 3 {
            store.insert(times(n), &key, column(n));
        }
        let id = store.id(&key).unwrap();
        let expected: Vec<_> = (0..2 * BLOCK as i64 + 3).map(|n| (times(n), column(n).to_bits())).collect();
        let bits = |(time, value): (Timestamp, f64)| (time, value.to_bits());
        assert_eq!(store.window(id, at(i64::MIN), at(i64::MAX)).map(bits).collect::<Vec<_>>(), expected, "column {index}");
        let mut newest: Vec<_> = store.newest(id).map(bits).collect();
        newest.reverse();
        assert_eq!(newest, expected, "column {index}");
    }
}

#[test]
fn a_leap_of_the_clock_begins_a_new_block() {
    let mut store = Store::new(usize::MAX);
    let key = key("a");
    let times: Vec<Timestamp> = [0, 10, 30 * 86_400, 30 * 86_400 + 10, 5]
        .map(at)
        .into_iter()
        .chain([i64::MIN, i64::MAX].map(Timestamp::from_nanos))
        .collect();
    times.iter().for_each(|at| {
        store.insert(*at, &key, 1.0);
    });
    let id = store.id(&key).unwrap();
    let read: Vec<Timestamp> = store.window(id, at(i64::MIN), at(i64::MAX)).map(|(at, _)| at).collect();
    let millis = |times: &[Timestamp]| times.iter().map(|at| at.as_nanos().div_euclid(1_000_000)).collect::<Vec<_>>();
    // The first millisecond there is does not begin within the nanoseconds there are.
    assert_eq!(millis(&read)[..5], millis(&times)[..5]);
    assert_eq!((read.len(), read[5], millis(&read)[6]), (7, Timestamp::from_nanos(i64::MIN), millis(&times)[6]));
    assert_eq!(store.slots.iter().flatten().map(|series| series.chunks.len()).sum::<usize>(), 5);
}

#[test]
fn series_in_step_share_their_times_and_the_bytes_are_counted_once() {
    let mut store = Store::new(usize::MAX);
    let keys: Vec<SeriesKey> = (0..50).map(|n| key(&n.to_string())).collect();
    let jitter = |n: i64| Timestamp::from_nanos(n * 10_000_000_000 + n * 7_919 % 5_003 * 1_000_000);
    let round = |store: &mut Store, keys: &[SeriesKey], n: i64| {
        keys.iter().for_each(|key| {
            store.insert(jitter(n), key, 1.0);
        });
    };
    let full = i64::try_from(BLOCK).unwrap();
    (0..full).for_each(|n| round(&mut store, &keys[..1], n));
    let alone = store.bytes();
    let mut store = Store::new(usize::MAX);
    (0..full).for_each(|n| round(&mut store, &keys, n));
    assert!(store.bytes() < 50 * alone / 2, "{} bytes alone, {} for 50", alone, store.bytes());
    // Whoever goes last frees what was shared.
    for _ in 0..PATIENCE {
        store.sweep(&mut Vec::new());
    }
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[test]
fn too_many_series_are_refused_and_counted() {
    let mut store = Store::new(10);
    for n in 0..MAX_SERIES {
        insert(&mut store, 0, &key(&n.to_string()), 0.0);
    }
    assert_eq!(store.insert(at(1), &key("one too many"), 0.0), Inserted::Refused);
    assert_eq!((store.len(), store.samples_refused()), (MAX_SERIES, 1));
    assert!(store.bytes() <= MEMORY_BUDGET);
    // Series that are already there go on.
    insert(&mut store, 1, &key("0"), 1.0);
}

#[test]
fn silent_series_are_removed_and_their_ids_used_again() {
    let mut store = Store::new(10);
    let (silent, alive) = (key("silent"), key("alive"));
    let silent_id = insert(&mut store, 0, &silent, 1.0);
    let mut removed = Vec::new();
    for n in 0..PATIENCE {
        insert(&mut store, n.into(), &alive, 1.0);
        assert!(removed.is_empty());
        store.sweep(&mut removed);
    }
    assert_eq!(removed, [(silent_id, silent.clone())]);
    assert_eq!((store.id(&silent), store.key(silent_id), store.len()), (None, None, 1));
    assert_eq!(insert(&mut store, 0, &key("next"), 7.0), silent_id);
    assert_eq!(all(&store, silent_id), [7.0]);
}
