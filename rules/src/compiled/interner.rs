//! Gives equal values one small number and counts who uses it, so that unused numbers come back.
//!
//! Used by the compiler for classes, books and port sets. Iteration order never matters here.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Values numbered from zero.
#[derive(Debug)]
pub(crate) struct Interner<K> {
    numbers: HashMap<Arc<K>, u32>,
    values: Vec<Option<(Arc<K>, u32)>>,
    free: Vec<u32>,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new(), free: Vec::new() }
    }
}

impl<K: Hash + Eq> Interner<K> {
    /// The number of `value` with one more user, and whether it is new.
    pub(crate) fn acquire(&mut self, value: K) -> (u32, bool) {
        if let Some(number) = self.numbers.get(&value).copied() {
            self.retain(number);
            return (number, false);
        }
        let value = Arc::new(value);
        let number = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            (self.values.len() - 1) as u32
        });
        self.values[number as usize] = Some((value.clone(), 1));
        self.numbers.insert(value, number);
        (number, true)
    }

    /// One more user.
    pub(crate) fn retain(&mut self, number: u32) {
        if let Some((_, users)) = &mut self.values[number as usize] {
            *users += 1;
        }
    }

    /// One user less; the value, if that was the last.
    pub(crate) fn release(&mut self, number: u32) -> Option<Arc<K>> {
        let slot = &mut self.values[number as usize];
        let (_, users) = slot.as_mut()?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        let (value, _) = slot.take()?;
        self.numbers.remove(&value);
        self.free.push(number);
        Some(value)
    }

    /// The value with this number.
    pub(crate) fn get(&self, number: u32) -> Option<Arc<K>> {
        self.values.get(number as usize)?.as_ref().map(|(value, _)| value.clone())
    }

    /// Numbers in use.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.values).filter(|(_, value)| value.is_some()).map(|(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_when_nobody_uses_them() {
        let mut interner = Interner::default();
        assert_eq!(interner.acquire("a"), (0, true));
        assert_eq!(interner.acquire("b"), (1, true));
        assert_eq!(interner.acquire("a"), (0, false));
        assert_eq!(interner.release(0), None);
        assert_eq!(interner.release(0).as_deref(), Some(&"a"));
        assert_eq!(interner.acquire("c"), (0, true));
        assert_eq!(interner.numbers().count(), 2);
    }
}
