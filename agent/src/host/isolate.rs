//! Runs what can block where it can hang alone.
//!
//! `statvfs` on a dead NFS mount, or reading the command line of a process that is stuck in the kernel, may not return for
//! hours, and no signal ends it. Such a call runs on a helper thread and is waited for until a deadline. A helper that misses
//! it is left behind with its call and a new one takes the next; the thread comes to an end by itself when the kernel lets go.
//! What is not here: any means of cancelling the call, since there is none.

use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Builder;
use std::time::Duration;

/// Most threads that there are at a time, unless another number is asked for. Beyond that, calls are refused at once.
const MAX_THREADS: usize = 16;

/// How long a helper waits for another call before it ends.
const IDLE: Duration = Duration::from_secs(30);

/// Stack of a helper thread. It is address space; only pages that are used become memory.
const STACK: usize = 256 << 10;

/// Does the work, says that it returned, then hands over the result: in that order, so that whoever has the result finds the
/// helper free.
type Run = Box<dyn FnOnce(&mut dyn FnMut()) + Send>;

/// A call on its way to a helper.
struct Task {
    run: Run,
    /// What it is about.
    subject: String,
    /// The helper's own way to be reached, which it puts back when it is free. Nobody else holds it then, so the helper ends
    /// with the last [`Isolate`].
    helper: Sender<Self>,
}

/// Why a call gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    subject: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    /// It did not return by the deadline.
    Deadline(Duration),
    /// An earlier call about the same subject has not returned yet.
    StillStuck,
    /// All threads, so many, are taken by calls that do not return.
    Exhausted(usize),
    /// The system gave no thread.
    NoThread(String),
    /// The work panicked.
    Panicked,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match &self.reason {
            Reason::Deadline(deadline) => write!(f, "{subject} does not answer: the kernel did not return within {deadline:?}"),
            Reason::StillStuck => write!(f, "{subject} still does not answer: an earlier call has not returned from the kernel"),
            Reason::Exhausted(limit) => {
                write!(f, "{subject} was not asked: {limit} calls about other things have not returned from the kernel")
            }
            Reason::NoThread(cause) => write!(f, "{subject} was not asked: cannot start a thread: {cause}"),
            Reason::Panicked => write!(f, "{subject} was not read: the code that reads it panicked"),
        }
    }
}

impl std::error::Error for Stuck {}

impl Stuck {
    /// Whether the call was made: then it is what it asks that does not answer.
    pub fn was_asked(&self) -> bool {
        !matches!(self.reason, Reason::Exhausted(_) | Reason::NoThread(_))
    }
}

/// Runs calls that can block. Clones share their threads, at most 16 by default; one is kept for reuse for a while.
#[derive(Clone, Debug)]
pub struct Isolate {
    state: Arc<Mutex<State>>,
    limit: usize,
}

/// A call that was made and may not have returned yet. Dropping it leaves the call alone.
#[derive(Debug)]
pub struct Question<T> {
    subject: String,
    answered: Receiver<std::thread::Result<T>>,
}

impl<T> Question<T> {
    /// The answer, as soon as it is there; `None` where it is not after `time`.
    pub fn wait(&self, time: Duration) -> Option<Result<T, Stuck>> {
        match self.answered.recv_timeout(time) {
            Ok(Ok(value)) => Some(Ok(value)),
            Ok(Err(_)) => Some(Err(Stuck { subject: self.subject.clone(), reason: Reason::Panicked })),
            Err(_) => None,
        }
    }

    /// Waits no longer, which was for as long as `deadline`.
    pub fn give_up(self, deadline: Duration) -> Stuck {
        Stuck { subject: self.subject, reason: Reason::Deadline(deadline) }
    }
}

#[derive(Default)]
struct State {
    /// Subjects whose call has not returned.
    busy: HashSet<String>,
    /// The helper that waits for work, with its number.
    idle: Option<(u64, Sender<Task>)>,
    /// Number of the next helper.
    next: u64,
    /// Helpers that exist, idle or not.
    threads: usize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("busy", &self.busy).field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Default for Isolate {
    fn default() -> Self {
        Self::with_threads(MAX_THREADS)
    }
}

impl Isolate {
    /// No thread yet; the first call starts one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another number of threads at most.
    pub fn with_threads(limit: usize) -> Self {
        Self { state: Arc::default(), limit }
    }

    /// Runs `work` and waits for it no longer than `deadline`. `subject` names what is asked, like a mount point.
    ///
    /// # Errors
    /// `work` did not return in time or panicked. It is not run at all, and the error comes at once, while an earlier call
    /// about the same subject has not returned or all threads are taken.
    pub fn call<T: Send + 'static>(
        &self,
        subject: &str,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        let question = self.ask(subject, work)?;
        question.wait(deadline).unwrap_or_else(|| Err(question.give_up(deadline)))
    }

    /// Runs `work` without waiting for it.
    ///
    /// # Errors
    /// As [`Self::call`], where `work` is not run at all.
    pub fn ask<T: Send + 'static>(&self, subject: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<Question<T>, Stuck> {
        let (answer, answered) = channel();
        let run = Box::new(move |returned: &mut dyn FnMut()| {
            let result = catch_unwind(AssertUnwindSafe(work));
            returned();
            // Whoever asked may have given up waiting.
            let _ = answer.send(result);
        });
        self.dispatch(subject, run).map_err(|reason| Stuck { subject: subject.to_owned(), reason })?;
        Ok(Question { subject: subject.to_owned(), answered })
    }

    /// Marks the subject and hands the call to the idle helper, or to a new one.
    fn dispatch(&self, subject: &str, run: Run) -> Result<(), Reason> {
        let mut state = lock(&self.state);
        if state.busy.contains(subject) {
            return Err(Reason::StillStuck);
        }
        let helper = match state.idle.take() {
            Some((_, helper)) => helper,
            None if state.threads >= self.limit => return Err(Reason::Exhausted(self.limit)),
            None => {
                let (helper, tasks) = channel();
                let (home, number) = (Arc::downgrade(&self.state), state.next);
                let thread = Builder::new().name("isolate".to_owned()).stack_size(STACK);
                thread.spawn(move || serve(number, &home, &tasks)).map_err(|error| Reason::NoThread(error.to_string()))?;
                state.threads += 1;
                state.next += 1;
                helper
            }
        };
        state.busy.insert(subject.to_owned());
        let task = Task { run, subject: subject.to_owned(), helper: helper.clone() };
        // A helper takes all it is sent: it ends only after its sender is gone, and here is one.
        let _ = helper.send(task);
        Ok(())
    }
}

/// The life of a helper: it ends when another one is already waiting for work, when it was not needed for a while, or when
/// nobody is left who could send any.
fn serve(number: u64, home: &Weak<Mutex<State>>, tasks: &Receiver<Task>) {
    loop {
        let Task { run, subject, helper } = match tasks.recv_timeout(IDLE) {
            Ok(task) => task,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some(state) = home.upgrade() else { return };
                let mut state = lock(&state);
                if state.idle.take_if(|(idle, _)| *idle == number).is_none() {
                    // It was taken in this moment: a call is on its way here.
                    continue;
                }
                state.threads -= 1;
                return;
            }
        };
        let mut helper = Some(helper);
        let mut kept = false;
        run(&mut || {
            let Some(state) = home.upgrade() else { return };
            let mut state = lock(&state);
            state.busy.remove(&subject);
            kept = state.idle.is_none();
            if kept {
                state.idle = helper.take().map(|helper| (number, helper));
            } else {
                state.threads -= 1;
            }
        });
        if !kept {
            return;
        }
    }
}

/// No code panics while it holds the lock, and if it did, every single field would still be sound.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Read, pipe};
    use std::time::Instant;

    use super::*;

    /// Long enough that a call which works is never late on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A call that blocks in the kernel, in `read` of a pipe, until the writer that is returned is dropped.
    fn block(isolate: &Isolate, subject: &str) -> (PipeWriter, Result<(), Stuck>) {
        let (mut reader, writer) = pipe().unwrap();
        let result = isolate.call(subject, Duration::from_millis(20), move || {
            let _ = reader.read(&mut [0]);
        });
        (writer, result)
    }

    /// Waits until `condition` holds.
    fn eventually(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "it never came true");
            std::thread::yield_now();
        }
    }

    #[test]
    fn calls_that_return_share_one_thread() {
        let isolate = Isolate::new();
        let first = isolate.call("a", PATIENCE, || std::thread::current().id()).unwrap();
        for _ in 0..100 {
            assert_eq!(isolate.call("a", PATIENCE, || std::thread::current().id()).unwrap(), first);
        }
    }

    #[test]
    fn a_stuck_call_costs_only_its_subject() {
        let isolate = Isolate::new();
        let (writer, result) = block(&isolate, "/mnt/dead");
        assert!(result.unwrap_err().to_string().starts_with("/mnt/dead does not answer"));
        let again = isolate.call("/mnt/dead", PATIENCE, || ()).unwrap_err();
        assert!(again.to_string().starts_with("/mnt/dead still does not answer"), "{again}");
        assert_eq!(isolate.call("/", PATIENCE, || 7), Ok(7));

        drop(writer);
        eventually(|| isolate.call("/mnt/dead", PATIENCE, || ()).is_ok());
        eventually(|| lock(&isolate.state).threads == 1);
    }

    #[test]
    fn stuck_threads_are_bounded() {
        let isolate = Isolate::new();
        let blocked: Vec<_> = (0..MAX_THREADS).map(|index| block(&isolate, &index.to_string())).collect();
        let refused = isolate.call("one more", PATIENCE, || ()).unwrap_err();
        assert!(refused.to_string().starts_with("one more was not asked"), "{refused}");

        drop(blocked);
        eventually(|| isolate.call("one more", PATIENCE, || ()).is_ok());
    }

    #[test]
    fn who_does_not_wait_has_the_answer_later() {
        let isolate = Isolate::with_threads(1);
        let (mut reader, writer) = pipe().unwrap();
        let question = isolate.ask("/mnt/slow", move || reader.read(&mut [0]).unwrap()).unwrap();
        assert!(question.wait(Duration::from_millis(1)).is_none());
        let refused = isolate.ask("/", || ()).unwrap_err();
        assert!(!refused.was_asked() && refused.to_string().contains("1 calls"), "{refused}");
        let again = isolate.ask("/mnt/slow", || ()).unwrap_err();
        assert!(again.was_asked(), "{again}");
        drop(writer);
        assert_eq!(question.wait(PATIENCE), Some(Ok(0)));
    }

    #[test]
    fn a_panic_costs_only_its_call() {
        let isolate = Isolate::new();
        let panicked = isolate.call("a", PATIENCE, || panic!("this panic is part of a test")).unwrap_err();
        assert!(panicked.to_string().contains("panicked"), "{panicked}");
        assert_eq!(isolate.call("a", PATIENCE, || 7), Ok(7));
    }

    #[test]
    fn the_helper_ends_with_the_last_owner() {
        let isolate = Isolate::new();
        let (kept, ended) = channel::<()>();
        isolate.call("a", PATIENCE, move || ON_EXIT.set(Some(kept))).unwrap();
        drop(isolate);
        assert_eq!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    }

    std::thread_local! {
        /// Dropped when the thread ends.
        static ON_EXIT: std::cell::Cell<Option<Sender<()>>> = const { std::cell::Cell::new(None) };
    }
}
