//! Memory of a transaction that the next one on the same thread uses again, so that a clean request allocates next to nothing.

use crate::arena::Span;
use crate::collections::Collections;
use crate::prefilter::Bits;
use crate::ruleset::Names;
use std::cell::RefCell;

/// Kept per thread; requests that are under way at once have more.
const KEPT: usize = 16;

#[derive(Default)]
pub(crate) struct Workspace {
    pub values: Collections,
    /// Rules of the phase that are still to be looked at.
    pub visit: Bits,
    pub found: Bits,
    /// Classes of the phase that the sets were run for.
    pub done: Vec<bool>,
    /// The different forms that chains give a value.
    pub forms: Vec<Span>,
}

thread_local! {
    static POOL: RefCell<Vec<Workspace>> = const { RefCell::new(Vec::new()) };
}

impl Workspace {
    pub(crate) fn take(names: &Names) -> Workspace {
        let mut space = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        space.values.prepare(names);
        space
    }

    fn give_back(mut self) {
        self.values.release();
        // while a thread ends there is no pool any more
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < KEPT
            {
                pool.push(self);
            }
        });
    }
}

impl Drop for crate::Transaction {
    fn drop(&mut self) {
        std::mem::take(&mut self.space).give_back();
    }
}
