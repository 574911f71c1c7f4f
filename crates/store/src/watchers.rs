//! Those who follow a store. The surprise: one that is too slow is never waited for; it loses batches and is told to
//! read the state anew.
use crate::store::{Batch, Watch};
use tokio::sync::mpsc;

/// Batches a watcher may be behind before it has to read everything anew.
pub(crate) const WATCH_QUEUE: usize = 1024;

#[derive(Default)]
pub(crate) struct Watchers {
    all: Vec<(mpsc::Sender<Watch>, bool)>,
}

impl Watchers {
    pub(crate) fn add(&mut self) -> mpsc::Receiver<Watch> {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        self.all.push((sender, false));
        receiver
    }

    /// One whose queue is full loses batches and is told so as soon as there is room.
    pub(crate) fn tell(&mut self, batch: &Batch) {
        self.all.retain_mut(|(sender, behind)| {
            let watch = if *behind { Watch::Reset } else { Watch::Changed(batch.clone()) };
            match sender.try_send(watch) {
                Ok(()) => *behind = false,
                Err(mpsc::error::TrySendError::Full(_)) => *behind = true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
            true
        });
    }

    /// The state changed in a way no batch tells.
    pub(crate) fn reset(&mut self) {
        self.all.retain_mut(|(sender, behind)| match sender.try_send(Watch::Reset) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                *behind = true;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }
}
