//! One kind of knowledge: values by id, when each was last confirmed, and which were asked for in this round.
//!
//! A value stays until a later answer replaces it: a failed request changes nothing here. Something that was there and is
//! missing from one answer is kept until a second answer says so too, because EC2 is eventually consistent.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant, SystemTime};

/// A round of requests: everything due is asked for once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) started: Instant,
    pub(crate) at: SystemTime,
    /// What is known is confirmed again; else only what is not known is asked for.
    pub(crate) refresh: bool,
}

#[derive(Debug)]
struct Known<T> {
    value: T,
    confirmed: Instant,
    at: SystemTime,
    /// It was missing from the last answer.
    doubted: bool,
}

/// Values by id.
#[derive(Debug)]
pub(crate) struct Table<K, T> {
    known: HashMap<K, Known<T>>,
    tried: HashMap<K, u64>,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { known: HashMap::new(), tried: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone, T: PartialEq> Table<K, T> {
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, id: &Q) -> Option<&T>
    where
        K: Borrow<Q>,
    {
        self.known.get(id).map(|known| &known.value)
    }

    /// When the value was last confirmed.
    pub(crate) fn at(&self, id: &K) -> Option<SystemTime> {
        self.known.get(id).map(|known| known.at)
    }

    /// Those of `ids` to ask for in this round: not known, or last confirmed longer ago than `age`.
    pub(crate) fn due<'a>(&self, ids: impl IntoIterator<Item = &'a K>, round: &Round, age: Duration) -> Vec<K>
    where
        K: 'a,
    {
        let due = |id: &&K| {
            let old = |known: &Known<T>| {
                let confirmed = known.confirmed;
                round.refresh && confirmed < round.started && round.started - confirmed >= age
            };
            !self.was_tried(id, round) && self.known.get(*id).is_none_or(old)
        };
        ids.into_iter().filter(due).cloned().collect()
    }

    pub(crate) fn was_tried(&self, id: &K, round: &Round) -> bool {
        self.tried.get(id) == Some(&round.number)
    }

    /// Whether it was ever asked for, in this round or before.
    pub(crate) fn was_ever_tried(&self, id: &K) -> bool {
        self.tried.contains_key(id)
    }

    /// They are asked for in this round, however it ends.
    pub(crate) fn mark_tried(&mut self, ids: &[K], round: &Round) {
        self.tried.extend(ids.iter().map(|id| (id.clone(), round.number)));
    }

    /// A new or confirmed value; says whether it is another one.
    pub(crate) fn put(&mut self, id: K, value: T, round: &Round) -> bool {
        let changed = self.get(&id) != Some(&value);
        if changed {
            self.known.insert(id, Known { value, confirmed: round.started, at: round.at, doubted: false });
        } else if let Some(known) = self.known.get_mut(&id) {
            (known.confirmed, known.at, known.doubted) = (round.started, round.at, false);
        }
        changed
    }

    /// Forgets what is no longer wanted.
    pub(crate) fn keep(&mut self, ids: &HashSet<K>) {
        self.known.retain(|id, _| ids.contains(id));
        self.tried.retain(|id, _| ids.contains(id));
    }
}

impl<K: Hash + Eq + Clone, T: PartialEq> Table<K, Option<T>> {
    /// The answer does not have it. Says whether that changes anything.
    pub(crate) fn put_absent(&mut self, id: K, round: &Round) -> bool {
        match self.known.get_mut(&id) {
            Some(known) if known.value.is_some() && !known.doubted => {
                known.doubted = true;
                false
            }
            _ => self.put(id, None, round),
        }
    }

    /// Whether it was missing from the last answer, and is kept for the time being.
    pub(crate) fn is_doubted(&self, id: &K) -> bool {
        self.known.get(id).is_some_and(|known| known.doubted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(number: u64, after: u64, start: Instant, refresh: bool) -> Round {
        let started = start + Duration::from_secs(after);
        Round { number, started, at: SystemTime::UNIX_EPOCH + Duration::from_secs(after), refresh }
    }

    #[test]
    fn each_round_asks_once_and_only_a_refresh_asks_again() {
        let start = Instant::now();
        let mut table = Table::<u8, &str>::default();
        let first = round(1, 0, start, false);
        assert_eq!(table.due(&[1, 2], &first, Duration::ZERO), [1, 2]);
        table.mark_tried(&[1, 2], &first);
        assert!(table.put(1, "a", &first));
        assert!(table.due(&[1, 2], &first, Duration::ZERO).is_empty());
        assert_eq!(table.due(&[1, 2], &round(2, 5, start, false), Duration::ZERO), [2], "1 is known");
        let refresh = round(3, 9, start, true);
        assert_eq!(table.due(&[1, 2], &refresh, Duration::ZERO), [1, 2]);
        assert_eq!(table.due(&[1, 2], &refresh, Duration::from_secs(10)), [2], "1 is not that old");
        assert!(!table.put(1, "a", &refresh), "confirmed, not changed");
        assert_eq!(table.at(&1), Some(refresh.at));
        table.keep(&HashSet::from([2]));
        assert_eq!(table.get(&1), None);
    }

    #[test]
    fn what_was_there_must_be_missing_twice_to_be_gone() {
        let start = Instant::now();
        let mut table = Table::<u8, Option<&str>>::default();
        assert!(table.put_absent(2, &round(1, 0, start, true)), "never seen: absent at once");
        table.put(1, Some("a"), &round(1, 0, start, true));
        let second = round(2, 5, start, true);
        assert!(!table.put_absent(1, &second));
        assert!(table.is_doubted(&1));
        assert_eq!(table.get(&1), Some(&Some("a")));
        assert_eq!(table.at(&1), Some(SystemTime::UNIX_EPOCH), "not confirmed");
        table.put(1, Some("a"), &round(3, 10, start, true));
        assert!(!table.put_absent(1, &round(4, 15, start, true)), "it had come back");
        assert!(table.put_absent(1, &round(5, 20, start, true)));
        assert_eq!(table.get(&1), Some(&None));
    }
}
