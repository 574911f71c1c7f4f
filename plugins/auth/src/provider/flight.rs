//! Questions that several requests have at once are asked once: whoever comes while the answer is under way waits for it. And a
//! bounded memory of answers.
use foldhash::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// What a question or an answer is known by.
pub type Key = [u8; 32];

/// Beyond it questions are asked each for itself.
const MAX_FLIGHTS: usize = 10_000;

/// Questions under way.
pub struct Flights<T>(Mutex<HashMap<Key, Arc<OnceCell<T>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// The answer of `ask`, or of an equal question under way. Whoever asks may be dropped: another takes over.
    pub async fn join(&self, key: Key, ask: impl Future<Output = T>) -> T {
        let cell = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(&key) {
                Some(cell) => Some(cell.clone()),
                None if flights.len() < MAX_FLIGHTS => {
                    let cell = Arc::new(OnceCell::new());
                    flights.insert(key, cell.clone());
                    Some(cell)
                }
                None => None,
            }
        };
        let Some(cell) = cell else { return ask.await };
        let landing = Landing { flights: self, key, cell: cell.clone() };
        let answer = Box::pin(cell.get_or_init(|| ask)).await.clone();
        drop(landing);
        answer
    }
}

/// Takes a flight from the list: when it has landed, or when the last who waits for it is gone.
struct Landing<'a, T> {
    flights: &'a Flights<T>,
    key: Key,
    cell: Arc<OnceCell<T>>,
}

impl<T> Drop for Landing<'_, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = flights.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // The list has one, and so have we, twice.
        if ours && (self.cell.initialized() || Arc::strong_count(&self.cell) <= 3) {
            flights.remove(&self.key);
        }
    }
}

/// Answers with the second at which each is forgotten.
pub struct Answers<T> {
    kept: Mutex<HashMap<Key, (u64, T)>>,
    most: usize,
}

impl<T: Clone> Answers<T> {
    /// Holds `most` answers.
    pub fn new(most: usize) -> Answers<T> {
        Answers { kept: Mutex::default(), most: most.max(1) }
    }

    pub fn get(&self, key: &Key, now: u64) -> Option<T> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|(until, _)| now < *until).map(|(_, answer)| answer.clone())
    }

    pub fn put(&self, key: Key, now: u64, until: u64, answer: T) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.most && !kept.contains_key(&key) {
            kept.retain(|_, (until, _)| now < *until);
            // Still full: any one goes, and a sixteenth of them, so that this is rare.
            if kept.len() >= self.most {
                let some: Vec<Key> = kept.keys().take(self.most / 16 + 1).copied().collect();
                some.iter().for_each(|key| drop(kept.remove(key)));
            }
        }
        kept.insert(key, (until, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::block_on;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn equal_questions_are_asked_once() {
        let (flights, asked) = (Flights::default(), AtomicU32::new(0));
        let ask = |key: u8| {
            let question = async {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                7
            };
            flights.join([key; 32], question)
        };
        let answers = block_on(async { tokio::join!(ask(1), ask(1), ask(2), ask(1)) });
        assert_eq!((answers, asked.load(Ordering::SeqCst)), ((7, 7, 7, 7), 2));
        assert!(flights.0.lock().unwrap().is_empty());
        // One who asked and went leaves nothing behind.
        block_on(async {
            let waits = flights.join([3; 32], std::future::pending());
            assert!(tokio::time::timeout(std::time::Duration::from_millis(1), waits).await.is_err());
        });
        assert!(flights.0.lock().unwrap().is_empty());
        assert_eq!(block_on(ask(3)), 7);
    }

    #[test]
    fn answers_are_bounded_and_end() {
        let answers = Answers::new(64);
        for i in 0..200u8 {
            answers.put([i; 32], 0, 10, i);
            assert_eq!(answers.get(&[i; 32], 9), Some(i));
            assert!(answers.kept.lock().unwrap().len() <= 64);
        }
        assert_eq!(answers.get(&[199; 32], 10), None);
    }
}
