//! Requests that wait for room, first come first served; whoever gives a place back hands it to the first.
//!
//! The surprise: a place is handed over within the queue's lock, already counted for the one who waited, so that a newcomer
//! cannot take it first. A waiter that leaves passes on what it was given.
use super::limiter::{Limiter, Slot};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
struct Waiter {
    /// Written within the queue's lock.
    granted: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// The queue of one limiter.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: Mutex<VecDeque<Arc<Waiter>>>,
    /// Their number, and who is about to join or leave: asked without the lock.
    waiting: AtomicU32,
}

fn whole<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // whole after every statement
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came of joining.
pub(super) enum Joined {
    /// There was room after all.
    Room,
    Waits(Ticket),
    Full,
}

impl Queue {
    #[inline]
    pub(super) fn is_used(&self) -> bool {
        // SeqCst with the counting of requests under way: of one who joins and one who leaves, at least one sees the other
        self.waiting.load(Ordering::SeqCst) > 0
    }

    pub(super) fn len(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn join(limiter: &Arc<Limiter>, size: usize) -> Joined {
        let queue = &limiter.queue;
        let mut waiters = whole(&queue.waiters);
        queue.waiting.fetch_add(1, Ordering::SeqCst);
        let room = waiters.is_empty() && limiter.grab();
        if room || waiters.len() >= size {
            queue.waiting.fetch_sub(1, Ordering::SeqCst);
            return if room { Joined::Room } else { Joined::Full };
        }
        let waiter = Arc::new(Waiter::default());
        waiters.push_back(waiter.clone());
        Joined::Waits(Ticket { limiter: limiter.clone(), waiter, open: true })
    }

    /// Hands places that are free to those who wait.
    #[cold]
    pub(super) fn serve(limiter: &Limiter) {
        let queue = &limiter.queue;
        let mut waiters = whole(&queue.waiters);
        let mut wake: smallvec::SmallVec<[Waker; 4]> = smallvec::SmallVec::new();
        while !waiters.is_empty() && limiter.grab() {
            let Some(waiter) = waiters.pop_front() else { break };
            queue.waiting.fetch_sub(1, Ordering::SeqCst);
            waiter.granted.store(true, Ordering::Release);
            wake.extend(whole(&waiter.waker).take());
        }
        drop(waiters);
        wake.into_iter().for_each(Waker::wake);
    }
}

/// A place in the queue; left when dropped.
#[derive(Debug)]
pub struct Ticket {
    limiter: Arc<Limiter>,
    waiter: Arc<Waiter>,
    /// Neither turned into a slot nor left.
    open: bool,
}

impl Ticket {
    /// Ready once it is this one's turn. Not to be polled after that.
    pub fn poll(&mut self, task: &mut Context<'_>) -> Poll<Slot> {
        if !self.waiter.granted.load(Ordering::Acquire) {
            let mut waker = whole(&self.waiter.waker);
            if waker.as_ref().is_none_or(|waker| !waker.will_wake(task.waker())) {
                *waker = Some(task.waker().clone());
            }
            drop(waker);
            // granted meanwhile, the waker was not there to be called
            if !self.waiter.granted.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        self.open = false;
        Poll::Ready(Slot::new(self.limiter.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let queue = &self.limiter.queue;
        let mut waiters = whole(&queue.waiters);
        if self.waiter.granted.load(Ordering::Acquire) {
            drop(waiters);
            self.limiter.release();
            return;
        }
        waiters.retain(|other| !Arc::ptr_eq(other, &self.waiter));
        queue.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
