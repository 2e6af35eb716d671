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
    for capacity in [1, 7, 64, 100, 200] {
        let (mut store, key) = (Store::new(capacity), key("a"));
        for n in 0..1000_i32 {
            let id = insert(&mut store, n.into(), &key, n.into());
            let from = (n + 1 - i32::try_from(capacity).unwrap()).max(0);
            assert_eq!(all(&store, id), (from..=n).map(f64::from).collect::<Vec<_>>());
        }
        let id = store.id(&key).unwrap();
        assert_eq!(store.newest(id).count(), capacity);
        assert_eq!(store.newest(id).next(), Some((at(999), 999.0)));
        assert!(store.by_age.len() <= 2 * store.live_chunks + CHUNK);
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
    let mut store = Store::new(usize::MAX);
    let (quiet, busy) = (key("quiet"), key("busy"));
    let quiet_id = insert(&mut store, 0, &quiet, 42.0);
    let samples = MEMORY_BUDGET / size_of::<Point>() + 10 * CHUNK;
    let mut busy_id = None;
    for n in 0..samples {
        busy_id = Some(insert(&mut store, i64::try_from(n).unwrap(), &busy, 1.0));
        assert!(store.bytes() <= MEMORY_BUDGET);
    }
    assert!(store.chunks_evicted() >= 9, "{}", store.chunks_evicted());
    // The quiet series' chunk was the oldest; its latest value stays.
    assert!(all(&store, quiet_id).is_empty());
    assert_eq!(store.latest(quiet_id), Some((at(0), 42.0)));
    assert!(all(&store, busy_id.unwrap()).len() > samples - 20 * CHUNK);
    assert_eq!(store.bytes, store.slots.iter().flatten().flat_map(|s| &s.chunks).map(Chunk::bytes).sum::<usize>());
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
