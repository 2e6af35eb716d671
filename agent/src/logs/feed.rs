//! A source that a thread of its own reads, since what it reads may block: on a disk, on another program.
//!
//! The thread ends when the source is dropped, as soon as it wants to hand over something or asks whether anybody waits.

use std::io;
use std::thread::Builder;

use tokio::sync::mpsc;

use super::{Logged, Next};
use crate::host::Unavailable;

/// Records that wait for the runtime; beyond that the thread waits.
const WAITING: usize = 64;
/// Stack of the thread: address space; only pages that are used become memory.
const STACK: usize = 256 << 10;

/// The reader's end.
pub type Sender = mpsc::Sender<io::Result<Logged>>;

/// The runtime's end.
pub struct Feed(mpsc::Receiver<io::Result<Logged>>);

impl Feed {
    /// Runs `read` in a thread; what it returns with is why the source ended.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(name: &str, read: impl FnOnce(&Sender) -> io::Error + Send + 'static) -> Result<Self, Unavailable> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let body = move || {
            let error = read(&sender);
            // Whoever closed the other end does not ask why.
            let _ = sender.blocking_send(Err(error));
        };
        match Builder::new().name(format!("log {name}")).stack_size(STACK).spawn(body) {
            Ok(_) => Ok(Self(receiver)),
            Err(error) => Err(Unavailable::new(format!("cannot start a thread: {error}"), "raise the limit of processes")),
        }
    }

    /// Lets the thread know that nobody waits any more.
    pub fn close(&mut self) {
        self.0.close();
    }

    /// The next record.
    pub fn next(&mut self) -> Next<'_> {
        Box::pin(async { self.0.recv().await.unwrap_or_else(|| Err(io::Error::other("its thread ended"))) })
    }
}
