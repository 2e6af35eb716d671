//! Telling threads to stop, and starting parts again that panicked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The wait before a part is started again; it doubles with each panic up to [`LONGEST`].
pub const FIRST: Duration = Duration::from_secs(1);
/// The longest wait before a part is started again.
pub const LONGEST: Duration = Duration::from_secs(60);

/// How often an ending part is looked at.
pub const POLL: Duration = Duration::from_millis(2);

/// Runs a task, again after each panic, with growing waits, until it returns.
pub async fn keep_running<F: Future<Output = ()> + Send + 'static>(name: String, mut make: impl FnMut() -> F) {
    let mut wait = FIRST;
    loop {
        let started = Instant::now();
        match AbortOnDrop(tokio::spawn(make())).finished().await {
            Ok(()) => return,
            Err(error) => tracing::error!("{name}: {error}; started again in {wait:?}"),
        }
        if started.elapsed() > LONGEST {
            wait = FIRST;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    async fn finished(mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A flag that threads can wait for.
#[derive(Clone, Default)]
pub struct StopFlag(Arc<(Mutex<bool>, Condvar)>);

impl StopFlag {
    /// Raises the flag.
    pub fn raise(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits until the flag is raised or the time has passed; says whether it is raised.
    pub fn wait(&self, time: Duration) -> bool {
        let (raised, changed) = &*self.0;
        let raised = raised.lock().unwrap_or_else(PoisonError::into_inner);
        let (raised, _) = changed.wait_timeout_while(raised, time, |raised| !*raised).unwrap_or_else(PoisonError::into_inner);
        *raised
    }
}

/// A part that runs in a thread of its own.
pub struct Part {
    name: &'static str,
    thread: JoinHandle<()>,
    returned: Arc<AtomicBool>,
}

impl Part {
    /// Runs `body` in a thread, again after each panic, with growing waits, until it returns or `stop` is raised.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(name: &'static str, stop: StopFlag, mut body: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let returned = Arc::new(AtomicBool::new(false));
        let signal = Arc::clone(&returned);
        let run = move || {
            let mut wait = FIRST;
            loop {
                let started = Instant::now();
                // What the body holds may be half changed; each part is written so that the next run copes with that.
                if catch_unwind(AssertUnwindSafe(&mut body)).is_ok() {
                    signal.store(true, Ordering::Release);
                    return;
                }
                if started.elapsed() > LONGEST {
                    wait = FIRST;
                }
                tracing::error!("{name} panicked and is started again in {wait:?}");
                if stop.wait(wait) {
                    return;
                }
                wait = (wait * 2).min(LONGEST);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { name, thread, returned })
    }

    /// Whether it makes no more observations. Letting go of what it holds may still take it a while.
    pub fn returned(&self) -> bool {
        self.returned.load(Ordering::Acquire) || self.thread.is_finished()
    }

    /// Waits for its end until the deadline. One that hangs in the kernel is left behind.
    pub async fn join(self, deadline: Instant) {
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                tracing::warn!("{} does not stop in time and is left to the kernel", self.name);
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        // A panic was reported when it happened.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_is_started_again() {
        let runs = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&runs);
        let part = Part::start("part", StopFlag::default(), move || {
            assert!(counter.fetch_add(1, Ordering::SeqCst) > 0, "the first run fails, as this test wants it");
        });
        part.unwrap().join(Instant::now() + Duration::from_secs(10)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_and_ends_with_its_keeper() {
        let runs = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&runs);
        let keeper = tokio::spawn(keep_running("task".into(), move || {
            let run = counter.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(run > 0, "the first run fails, as this test wants it");
                std::future::pending::<()>().await;
            }
        }));
        while runs.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(POLL).await;
        }
        // The task holds the counter through its closure; it goes when the keeper goes.
        keeper.abort();
        assert!(keeper.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(Arc::strong_count(&runs), 1);
    }

    #[test]
    fn a_raised_flag_ends_every_wait() {
        let stop = StopFlag::default();
        assert!(!stop.wait(Duration::from_millis(1)));
        stop.raise();
        assert!(stop.wait(Duration::from_secs(3600)));
    }
}
