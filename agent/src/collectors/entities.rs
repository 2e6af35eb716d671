//! Things that come and go, such as devices, cores and processes: what is kept of each from run to run.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// What is kept of each thing, for as long as each run sees it.
#[derive(Debug)]
pub struct Entities<K, T> {
    known: HashMap<K, Entity<T>>,
    run: u64,
}

#[derive(Debug)]
struct Entity<T> {
    last_seen: u64,
    kept: T,
}

impl<K, T> Default for Entities<K, T> {
    fn default() -> Self {
        Self { known: HashMap::new(), run: 0 }
    }
}

impl<K: Hash + Eq, T> Entities<K, T> {
    /// Says that the thing is there, makes what is kept of it when it is new, and hands that to `update`.
    pub fn see<Q, R>(&mut self, key: &Q, make: impl FnOnce() -> T, update: impl FnOnce(&mut T) -> R) -> R
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let last_seen = self.run;
        let entity = match self.known.get_mut(key) {
            Some(entity) => {
                entity.last_seen = last_seen;
                return update(&mut entity.kept);
            }
            None => self.known.entry(key.to_owned()).or_insert_with(|| Entity { last_seen, kept: make() }),
        };
        update(&mut entity.kept)
    }

    /// Whether `holds` of what is kept of the thing. Where it does, that is enough to say that the thing is there.
    pub fn pass(&mut self, key: &K, holds: impl FnOnce(&mut T) -> bool) -> bool {
        let run = self.run;
        let Some(entity) = self.known.get_mut(key) else { return false };
        let passes = holds(&mut entity.kept);
        if passes {
            entity.last_seen = run;
        }
        passes
    }

    /// Ends a run: forgets what was not seen in it.
    pub fn end_run(&mut self) {
        let run = self.run;
        self.known.retain(|_, entity| entity.last_seen == run);
        self.run += 1;
    }

    /// What is kept of a thing that is there.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut T> {
        self.known.get_mut(key).map(|entity| &mut entity.kept)
    }

    /// All that is kept, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut T)> {
        self.known.iter_mut().map(|(key, entity)| (key, &mut entity.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_forgotten() {
        let mut entities = Entities::<String, u32>::default();
        let see = |entities: &mut Entities<String, u32>, name: &str| {
            entities.see(
                name,
                || 0,
                |count| {
                    *count += 1;
                    *count
                },
            )
        };
        assert_eq!(see(&mut entities, "a"), 1);
        assert_eq!(see(&mut entities, "b"), 1);
        entities.end_run();
        assert_eq!(see(&mut entities, "a"), 2);
        entities.end_run();
        assert_eq!(see(&mut entities, "a"), 3);
        assert_eq!(see(&mut entities, "b"), 1);
    }

    #[test]
    fn what_is_passed_is_kept() {
        let mut entities = Entities::<u32, u32>::default();
        entities.see(&7, || 1, |_| ());
        entities.end_run();
        assert!(!entities.pass(&8, |_| true) && entities.pass(&7, |kept| *kept == 1));
        entities.end_run();
        assert!(!entities.pass(&7, |kept| *kept == 2));
        entities.end_run();
        assert!(entities.get_mut(&7).is_none(), "neither seen nor passed");
    }
}
