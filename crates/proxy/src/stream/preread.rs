//! The plugins' look at a connection's first bytes. Nothing is read for plugins that do not ask.
use super::{Refused, Session};
use crate::scratch;
use sluice_config::StreamPluginEntry;
use sluice_plugin::StreamFlow;
use std::future::poll_fn;
use std::task::{Poll, ready};

impl Session {
    pub(super) async fn preread(&mut self, plugins: &[StreamPluginEntry]) -> Result<(), Refused> {
        // One limit for all plugins together, however the client spreads its bytes.
        self.timeout.arm(self.worker.settings.preread_timeout);
        for entry in plugins {
            loop {
                match entry.plugin.preread(&mut self.cx) {
                    StreamFlow::Next => break,
                    StreamFlow::Wait(time) => {
                        tokio::time::sleep(time).await;
                        break;
                    }
                    StreamFlow::Close(reason) => {
                        return Err(Refused::Plugin { plugin: entry.name, reason: reason.into_owned() });
                    }
                    // A plugin that asks for what it has is given one more byte, so that the loop goes on to an end.
                    StreamFlow::NeedBytes(wanted) => {
                        self.read(entry.name, wanted.max(self.cx.head.len() + 1)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads until `wanted` bytes are there, and not beyond the limit.
    async fn read(&mut self, plugin: &'static str, wanted: usize) -> Result<(), Refused> {
        let limit = self.worker.settings.preread_bytes;
        if wanted > limit {
            return Err(Refused::TooLong { plugin, wanted });
        }
        while self.cx.head.len() < wanted {
            poll_fn(|task| {
                if self.worker.drain.is_forced() {
                    return Poll::Ready(Err(Refused::Drained));
                }
                let read = scratch::with(|scratch| {
                    let room = (limit - self.cx.head.len()).min(scratch.read.len());
                    let buffer = scratch.read.get_mut(..room).unwrap_or_default();
                    let read = ready!(scratch::poll_read(&mut self.client, task, buffer));
                    if let Ok(n) = read {
                        self.cx.head.extend_from_slice(buffer.get(..n).unwrap_or_default());
                    }
                    Poll::Ready(read)
                });
                match read {
                    Poll::Ready(Ok(n)) if n > 0 => Poll::Ready(Ok(())),
                    Poll::Ready(_) => Poll::Ready(Err(Refused::Closed)),
                    Poll::Pending => self.timeout.poll(task).map(|()| Err(Refused::Timeout)),
                }
            })
            .await?;
        }
        Ok(())
    }
}
