//! The terminal: taken while the screen is shown, and given back as it was, whatever happens.

use std::io::{self, Stdout};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use rustix::process::{Signal, kill_current_process_group};
use tokio::sync::mpsc;

use super::page::{self, Controls};
use super::view::View;

/// Keys that wait for the screen.
const QUEUE: usize = 16;

/// The terminal, in raw mode and on its alternate screen. Dropping it gives it back, in a panic, too.
pub struct Screen {
    /// Not to be dropped: where the terminal is gone, ratatui would say so on standard error, and panic where that is gone, too.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
    /// What panics said meanwhile; a part that panics is started again, and must not write across the screen.
    panics: Arc<Mutex<Vec<String>>>,
}

impl Screen {
    /// Takes the terminal of standard output.
    ///
    /// # Errors
    /// It is none, or is gone.
    pub fn open() -> anyhow::Result<Self> {
        let terminal = new()?;
        let panics = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&panics);
        std::panic::set_hook(Box::new(move |panic| {
            said.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
        }));
        let screen = Self { terminal, panics };
        enter().context("cannot take the terminal")?;
        Ok(screen)
    }

    /// Draws what changed.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, view: &View, controls: &Controls) -> anyhow::Result<()> {
        let drawn = self.terminal.draw(|frame| {
            let area = frame.area();
            page::draw(view, controls, area, frame.buffer_mut());
        });
        drawn.map(drop).context("cannot write to the terminal")
    }

    /// Gives the terminal back, stops as ^Z does, and takes it again when continued.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn suspend(&mut self) -> anyhow::Result<()> {
        leave().context("cannot give the terminal back")?;
        // The whole group, as the terminal would: whoever started this, such as sudo, stops with it. Where no shell could
        // continue it, the kernel ignores this signal.
        let _ = kill_current_process_group(Signal::TSTP);
        // A new one draws everything; `clear` would ask the terminal for its cursor, and the thread for the keys has the answer.
        self.terminal = new()?;
        enter().context("cannot take the terminal again")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = leave();
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
        for panic in self.panics.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            crate::commands::complain(&panic);
        }
    }
}

fn new() -> anyhow::Result<ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>> {
    Terminal::new(CrosstermBackend::new(io::stdout())).map(ManuallyDrop::new).context("cannot use the terminal")
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)
}

/// Both in any case: half of it is better than nothing.
fn leave() -> io::Result<()> {
    let shown = execute!(io::stdout(), LeaveAlternateScreen, Show);
    disable_raw_mode().and(shown)
}

/// Reads keys and changes of size in a thread of its own, which ends with the program.
///
/// # Errors
/// The system gives no thread.
pub fn keys() -> anyhow::Result<mpsc::Receiver<Event>> {
    let (keys, pressed) = mpsc::channel(QUEUE);
    let read = move || {
        while let Ok(event) = event::read() {
            if keys.blocking_send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read).context("cannot start a thread for the keys")?;
    Ok(pressed)
}
