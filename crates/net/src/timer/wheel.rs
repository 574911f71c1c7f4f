//! A hashed timing wheel of one level: slots are ticks, each a doubly linked list threaded through a slab.
//! The one surprise: pushing a deadline out does not move the entry; it is looked at in its old slot and moved then,
//! so re-arming a connection's time-out is one store.
use std::task::Waker;

const SLOTS: u64 = 4096;
const NIL: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
struct Node {
    /// The tick at which it expires; NEVER when disarmed.
    deadline: u64,
    /// The tick whose slot it is linked in (not after the deadline); NEVER when in none.
    slot: u64,
    prev: u32,
    next: u32,
    waker: Option<Waker>,
}

/// The wheel. Time is counted in ticks by the caller.
#[derive(Debug)]
pub(super) struct Wheel {
    now: u64,
    heads: Box<[u32]>,
    nodes: Vec<Node>,
    free: u32,
    live: usize,
}

#[allow(clippy::indexing_slicing, reason = "masked by SLOTS, or keys that `insert` handed out")]
impl Wheel {
    pub(super) fn new() -> Self {
        Self { now: 0, heads: vec![NIL; SLOTS as usize].into(), nodes: Vec::new(), free: NIL, live: 0 }
    }

    pub(super) fn insert(&mut self) -> u32 {
        let node = Node { deadline: NEVER, slot: NEVER, prev: NIL, next: NIL, waker: None };
        self.live += 1;
        if self.free == NIL {
            self.nodes.push(node);
            return (self.nodes.len() - 1) as u32;
        }
        let key = self.free;
        self.free = std::mem::replace(&mut self.nodes[key as usize], node).next;
        key
    }

    /// The waker is returned so that it is dropped outside of the wheel's borrow.
    pub(super) fn remove(&mut self, key: u32) -> Option<Waker> {
        self.unlink(key);
        let free = self.free;
        let n = &mut self.nodes[key as usize];
        n.next = free;
        n.deadline = NEVER;
        let waker = n.waker.take();
        self.free = key;
        self.live -= 1;
        waker
    }

    #[inline]
    pub(super) fn arm(&mut self, key: u32, deadline: u64) {
        let n = &mut self.nodes[key as usize];
        n.deadline = deadline;
        if n.slot > deadline {
            self.link(key);
        }
    }

    /// It stays in its slot until looked at: a connection disarms and arms again far more often than it expires.
    #[inline]
    pub(super) fn disarm(&mut self, key: u32) {
        self.nodes[key as usize].deadline = NEVER;
    }

    #[inline]
    pub(super) fn deadline(&self, key: u32) -> Option<u64> {
        let d = self.nodes[key as usize].deadline;
        (d != NEVER).then_some(d)
    }

    /// The waker replaced, if any.
    #[inline]
    pub(super) fn set_waker(&mut self, key: u32, waker: &Waker) -> Option<Waker> {
        let old = &mut self.nodes[key as usize].waker;
        match old {
            Some(w) if w.will_wake(waker) => None,
            _ => old.replace(waker.clone()),
        }
    }

    /// Moves time on and hands out the wakers of what has expired.
    pub(super) fn advance(&mut self, now: u64, expired: &mut Vec<Waker>) {
        if now <= self.now {
            return;
        }
        let first = self.now + 1;
        self.now = now;
        // After a whole turn every slot has been seen.
        for tick in first..=now.min(first + SLOTS - 1) {
            let mut key = std::mem::replace(&mut self.heads[(tick % SLOTS) as usize], NIL);
            while key != NIL {
                let n = &mut self.nodes[key as usize];
                let next = n.next;
                n.slot = NEVER;
                (n.prev, n.next) = (NIL, NIL);
                if n.deadline <= now {
                    expired.extend(n.waker.take());
                } else if n.deadline != NEVER {
                    self.link(key);
                }
                key = next;
            }
        }
    }

    /// The next tick at which there is something to look at.
    pub(super) fn next(&self) -> Option<u64> {
        (self.now + 1..self.now + SLOTS).find(|t| self.heads[(t % SLOTS) as usize] != NIL)
    }

    /// Every waker there is, for a drain.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        self.nodes.iter_mut().filter_map(|n| n.waker.take()).collect()
    }

    /// Entries handed out and not yet removed.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    fn link(&mut self, key: u32) {
        self.unlink(key);
        let n = &mut self.nodes[key as usize];
        n.slot = n.deadline.clamp(self.now + 1, self.now + SLOTS - 1);
        let head = &mut self.heads[(n.slot % SLOTS) as usize];
        n.prev = NIL;
        n.next = *head;
        let next = std::mem::replace(head, key);
        if next != NIL {
            self.nodes[next as usize].prev = key;
        }
    }

    fn unlink(&mut self, key: u32) {
        let n = &mut self.nodes[key as usize];
        if n.slot == NEVER {
            return;
        }
        let (slot, prev, next) = (std::mem::replace(&mut n.slot, NEVER), n.prev, n.next);
        (n.prev, n.next) = (NIL, NIL);
        match prev {
            NIL => self.heads[(slot % SLOTS) as usize] = next,
            p => self.nodes[p as usize].next = next,
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert,
        Remove(usize),
        Arm(usize, u64),
        Disarm(usize),
        Advance(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(Op::Insert),
            any::<usize>().prop_map(Op::Remove),
            (any::<usize>(), prop_oneof![0..20u64, 0..20_000u64]).prop_map(|(k, d)| Op::Arm(k, d)),
            any::<usize>().prop_map(Op::Disarm),
            prop_oneof![1..50u64, 1..10_000u64].prop_map(Op::Advance),
        ]
    }

    proptest! {
        /// Against a plain list: everything expires exactly when it should, once, and nothing else does.
        #[test]
        fn agrees_with_a_list(ops in prop::collection::vec(op(), 1..120)) {
            let mut w = Wheel::new();
            let mut now = 0;
            let mut model: Vec<(u32, Option<u64>, Arc<Count>, usize)> = Vec::new();
            for op in ops {
                match op {
                    Op::Insert => {
                        let key = w.insert();
                        prop_assert!(model.iter().all(|m| m.0 != key));
                        model.push((key, None, Arc::new(Count(AtomicUsize::new(0))), 0));
                    }
                    Op::Remove(i) if !model.is_empty() => {
                        let m = model.swap_remove(i % model.len());
                        w.remove(m.0);
                    }
                    Op::Arm(i, d) if !model.is_empty() => {
                        let i = i % model.len();
                        model[i].1 = Some(now + 1 + d);
                        w.arm(model[i].0, now + 1 + d);
                        w.set_waker(model[i].0, &model[i].2.clone().into());
                    }
                    Op::Disarm(i) if !model.is_empty() => {
                        let i = i % model.len();
                        model[i].1 = None;
                        w.disarm(model[i].0);
                    }
                    Op::Advance(d) => {
                        // What is armed must not be slept past.
                        let first = model.iter().filter_map(|m| m.1).filter(|d| *d > now).min();
                        if let Some(first) = first {
                            prop_assert!(w.next().is_some_and(|n| n <= first));
                        }
                        let before = now;
                        now += d;
                        let mut woken = Vec::new();
                        w.advance(now, &mut woken);
                        woken.into_iter().for_each(Waker::wake);
                        for m in &mut model {
                            if m.1.is_some_and(|d| d > before && d <= now) {
                                m.3 += 1;
                            }
                            prop_assert_eq!(m.2.0.load(Ordering::Relaxed), m.3);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(w.len(), model.len());
            }
        }
    }
}
