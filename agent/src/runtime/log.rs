//! The program's own log, on standard error.
//!
//! A thread of its own writes it: whoever writes to a terminal that was stopped with ^S, or to a pipe that nobody reads, blocks,
//! and that must be neither the engine nor the one who handles SIGTERM. Lines that find the queue full are counted and told of
//! when there is room again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracing_subscriber::filter::LevelFilter;

use super::stop::POLL;
use crate::config::LogLevel;

/// Lines that wait to be written.
const QUEUE: usize = 256;
/// How long the end of the program waits for them.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Writes the log until the end of the program. Dropping it waits a moment for what is not written yet.
pub struct Log(Arc<Count>);

#[derive(Default)]
struct Count {
    waiting: AtomicUsize,
    lost: AtomicU64,
}

/// Starts the log at `level`; to be called once.
///
/// # Errors
/// The system gives no thread.
pub fn log_to_stderr(level: LogLevel) -> anyhow::Result<Log> {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let (lines, waiting) = sync_channel(QUEUE);
    let count = Arc::new(Count::default());
    let counted = Arc::clone(&count);
    let write = move || write_lines(&waiting, &counted, &mut io::stderr());
    std::thread::Builder::new().name("log".to_owned()).spawn(write).context("cannot start a thread for the log")?;
    let log = Log(Arc::clone(&count));
    let writer = move || Line { lines: lines.clone(), count: Arc::clone(&count) };
    tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_ansi(colour).with_target(false).init();
    Ok(log)
}

fn write_lines(waiting: &Receiver<Vec<u8>>, count: &Count, out: &mut impl Write) {
    for line in waiting {
        // Whoever closed our output does not want to read it.
        let _ = out.write_all(&line);
        let lost = count.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} lines of this log are missing here: nobody read it in time");
        }
        count.waiting.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        while self.0.waiting.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    }
}

/// Takes one line, in one write, as the formatter gives it.
struct Line {
    lines: SyncSender<Vec<u8>>,
    count: Arc<Count>,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.count.waiting.fetch_add(1, Ordering::Relaxed);
        if self.lines.try_send(line.to_vec()).is_err() {
            self.count.waiting.fetch_sub(1, Ordering::Relaxed);
            self.count.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_told() {
        let (lines, waiting) = sync_channel(1);
        let count = Arc::new(Count::default());
        let mut line = Line { lines, count: Arc::clone(&count) };
        for text in ["first\n", "second\n", "third\n"] {
            line.write_all(text.as_bytes()).unwrap();
        }
        drop(line);
        let mut out = Vec::new();
        write_lines(&waiting, &count, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "first\n2 lines of this log are missing here: nobody read it in time\n");
        assert_eq!(count.waiting.load(Ordering::Relaxed), 0);
    }
}
