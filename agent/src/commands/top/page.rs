//! Draws a screen: sections from top to bottom, each as high as there is room, the least important left out first.
//!
//! Everything goes through [`Canvas::put`], which escapes what acts on a terminal and keeps within the area, so that neither
//! a hostile name nor a tiny terminal does harm.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::Span;

use super::view::{Event, Open, Process, Sort, View, sort};
use crate::notifiers::{duration, escape, quantity};

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dim();
const TITLE: Style = Style::new().bold().underlined();
const GOOD: Style = Style::new().fg(Color::Green);
const LESSER: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red);

/// Where a bar turns yellow, and where red.
const HIGH: f64 = 70.0;
const VERY_HIGH: f64 = 90.0;

/// Cells of a label before a bar, of its number, and of one of the columns of disks, file systems and interfaces.
const LABEL: u16 = 7;
const NUMBER: u16 = 7;
const COLUMN: u16 = 25;
/// Longest command name: fifteen bytes (`TASK_COMM_LEN` of include/linux/sched.h), with room for some escapes.
const COMM: u16 = 24;

/// What the person at the keyboard chose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Controls {
    /// By what processes are sorted.
    pub sort: Sort,
    /// Processes left out above.
    pub skip: usize,
    /// Whether there is a keyboard, whose keys are to be told.
    pub keys: bool,
}

/// Draws the screen into `area`, whatever its size.
pub fn draw(view: &View, controls: &Controls, area: Rect, buffer: &mut Buffer) {
    let mut canvas = Canvas { area: area.intersection(buffer.area), buffer };
    let height = canvas.area.height;
    let swap = view.memory.swap_total_bytes.is_some_and(|total| total > 0);
    let bars = 2 + u16::from(swap) + u16::from(!view.pressure.is_empty());
    let rows = |entries: usize, most: u16| 1 + u16::try_from(entries).unwrap_or(u16::MAX).min(most);
    let io = view.disks.len().max(view.networks.len()).max(view.file_systems.len());
    let [footer, header, alerts, processes, bars, events, io] = share(
        height,
        [
            (u16::from(controls.keys), u16::from(controls.keys)),
            (1, 2),
            (rows(view.alerts.len(), 1), rows(view.alerts.len(), height / 3)),
            (3, rows(view.processes.top.len(), u16::MAX - 1)),
            (bars, bars),
            (rows(view.events.len(), 1), rows(view.events.len(), height / 4)),
            (2, rows(io, 6)),
        ],
    );
    header_lines(&mut canvas.next(header), view);
    bar_lines(&mut canvas.next(bars), view, swap);
    io_lines(&mut canvas.next(io), view);
    alert_lines(&mut canvas.next(alerts), view);
    process_lines(&mut canvas.next(processes), view, controls);
    event_lines(&mut canvas.next(events), view);
    if footer > 0 {
        let bottom = canvas.area.height.saturating_sub(1);
        let other = if controls.sort == Sort::Cpu { "memory" } else { "CPU" };
        canvas.put(0, bottom, u16::MAX, &format!("q quit   p sort by {other}   up, down, page up, page down scroll"), DIM);
    }
}

/// The screen as plain text.
pub fn text(view: &View, width: u16, height: u16) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(view, &Controls::default(), buffer.area, &mut buffer);
    let mut page = String::new();
    for y in 0..height {
        let mut line = String::new();
        let mut x = 0;
        while let Some(cell) = (x < width).then(|| buffer.cell((x, y))).flatten() {
            line.push_str(cell.symbol());
            // A wide character stands in two cells, of which the second is empty.
            x += u16::try_from(Span::raw(cell.symbol()).width()).unwrap_or(1).max(1);
        }
        page.push_str(line.trim_end());
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

/// Shares out `height` lines among sections, given as the fewest and the most lines that each can use, the most important
/// first: all that fit have their fewest, and take turns for the rest.
fn share<const N: usize>(height: u16, sections: [(u16, u16); N]) -> [u16; N] {
    let mut left = height;
    let mut rows = sections.map(|(fewest, _)| {
        let given = if fewest <= left { fewest } else { 0 };
        left -= given;
        given
    });
    let mut before = u16::MAX;
    while left > 0 && left < before {
        before = left;
        for (rows, (_, most)) in rows.iter_mut().zip(sections) {
            if left > 0 && *rows > 0 && *rows < most {
                *rows += 1;
                left -= 1;
            }
        }
    }
    rows
}

/// A part of the screen.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
}

impl Canvas<'_> {
    /// Splits off the first lines.
    fn next(&mut self, height: u16) -> Canvas<'_> {
        let height = height.min(self.area.height);
        let area = Rect { height, ..self.area };
        self.area.y += height;
        self.area.height -= height;
        Canvas { buffer: self.buffer, area }
    }

    /// Writes `text`, escaped, into at most `width` cells; returns the column behind it.
    fn put(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
        let room = width.min(self.area.width.saturating_sub(x));
        if room == 0 || y >= self.area.height {
            return x;
        }
        let end = self.buffer.set_stringn(self.area.x + x, self.area.y + y, escape(text), usize::from(room), style).0;
        end.saturating_sub(self.area.x)
    }

    /// Writes `text` so that it ends where the width ends.
    fn put_right(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) {
        let taken = u16::try_from(Span::raw(text).width()).unwrap_or(width).min(width);
        self.put(x + (width - taken), y, taken, text, style);
    }

    /// Draws `[|||   ]` for a share of 100.
    fn bar(&mut self, x: u16, y: u16, width: u16, percent: f64) {
        let inside = width.saturating_sub(2);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "such a cast saturates")]
        let full = ((percent.clamp(0.0, 100.0) / 100.0 * f64::from(inside)).round() as u16).min(inside);
        self.put(x, y, 1, "[", DIM);
        self.put(x + 1, y, full, &"|".repeat(usize::from(full)), colour(percent));
        self.put(x + 1 + inside, y, 1, "]", DIM);
    }
}

fn colour(percent: f64) -> Style {
    match percent {
        VERY_HIGH.. => BAD,
        HIGH.. => LESSER,
        _ => GOOD,
    }
}

/// A share with one decimal, or what stands for one that is not known.
fn percent(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}%"))
}

fn number(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn bytes(value: Option<u64>) -> String {
    #[expect(clippy::cast_precision_loss, reason = "told with one decimal")]
    value.map_or("-".to_owned(), |value| quantity("_bytes", value as f64))
}

/// A number of bytes in at most five characters, in powers of 1024.
fn short(value: Option<f64>) -> String {
    let Some(mut value) = value else { return "-".to_owned() };
    for unit in ["", "K", "M", "G", "T", "P"] {
        if value < 9.95 && !unit.is_empty() {
            return format!("{value:.1}{unit}");
        }
        if value < 999.5 {
            return format!("{value:.0}{unit}");
        }
        value /= 1024.0;
    }
    "huge".to_owned()
}

fn header_lines(canvas: &mut Canvas<'_>, view: &View) {
    let host = &view.host;
    let load = host.load.map(|load| load.map_or("-".to_owned(), |load| format!("{load:.2}"))).join(" ");
    let up = host.uptime_seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
    let up = up.map_or("-".to_owned(), duration);
    let time = view.time.get(11..19).unwrap_or_default();
    let width = canvas.area.width.saturating_sub(9);
    let x = canvas.put(0, 0, width, &host.name, BOLD);
    let rest = format!("  Linux {}  up {up}  load {load}, {} CPUs", host.kernel, number(host.cores));
    canvas.put(x, 0, width.saturating_sub(x), &rest, PLAIN);
    canvas.put_right(width, 0, 9, time, DIM);

    let attached = view.signals.iter().filter(|signal| signal.probe).count();
    let style = if attached == view.signals.len() { GOOD } else { LESSER };
    let mut x = canvas.put(0, 1, u16::MAX, &format!("probes {attached}/{}", view.signals.len()), style);
    if !view.kernel_log_read {
        x = canvas.put(x, 1, u16::MAX, ", no kernel log", LESSER);
    }
    if !view.collectors_failing.is_empty() {
        x = canvas.put(x, 1, u16::MAX, &format!(", failing: {}", view.collectors_failing.join(" ")), BAD);
    }
    let cost = &view.agent;
    let programs = cost.bpf_program_percent.map_or(String::new(), |percent| format!(", BPF {percent:.2}%"));
    let (rss, maps) = (bytes(cost.rss_bytes), bytes(Some(cost.bpf_map_bytes)));
    let text = format!("  agent: CPU {}{programs}, {rss}, maps {maps}", percent(cost.cpu_percent));
    canvas.put(x, 1, u16::MAX, &text, DIM);
}

fn bar_lines(canvas: &mut Canvas<'_>, view: &View, swap: bool) {
    if canvas.area.height == 0 {
        return;
    }
    let bar = (canvas.area.width / 5).clamp(7, 40);
    let mut row = 0;
    let mut line = |label: &str, value: Option<f64>, detail: String| {
        canvas.put(0, row, LABEL, label, BOLD);
        canvas.bar(LABEL, row, bar, value.unwrap_or(0.0));
        canvas.put_right(LABEL + bar, row, NUMBER, &percent(value), PLAIN);
        canvas.put(LABEL + bar + NUMBER + 2, row, u16::MAX, &detail, PLAIN);
        row += 1;
    };
    let cpu = &view.cpu;
    let irq = cpu.irq_percent.zip(cpu.softirq_percent).map(|(hard, soft)| hard + soft);
    let shares = [
        ("user", cpu.user_percent),
        ("sys", cpu.system_percent),
        ("wait", cpu.iowait_percent),
        ("irq", irq),
        ("steal", cpu.steal_percent),
    ];
    let shares = shares.map(|(name, value)| format!("{name} {}", value.map_or("-".to_owned(), |value| format!("{value:.1}"))));
    line("CPU", cpu.usage_percent, format!("{}  run {} blocked {}", shares.join(" "), number(cpu.running), number(cpu.blocked)));
    let memory = &view.memory;
    let of = |used, total| format!("{} of {}", bytes(used), bytes(total));
    let cache = format!("  cached {}  dirty {}", bytes(memory.cached_bytes), bytes(memory.dirty_bytes));
    line("Memory", memory.usage_percent, of(memory.used_bytes, memory.total_bytes) + &cache);
    if swap {
        line("Swap", memory.swap_usage_percent, of(memory.swap_used_bytes, memory.swap_total_bytes));
    }
    let resources = u16::try_from(view.pressure.len()).unwrap_or(u16::MAX);
    let Some(width) = canvas.area.width.saturating_sub(LABEL).checked_div(resources) else { return };
    canvas.put(0, row, LABEL, "PSI", BOLD);
    for (slot, pressure) in (0..resources).zip(&view.pressure) {
        let x = LABEL + slot * width;
        // Only some resources have both shares; who waits for `full` waits for `some`, too.
        let waits = pressure.some_percent.or(pressure.full_percent);
        let inner = canvas.put(x, row, width, &format!("{} ", pressure.resource), PLAIN);
        let bar = (x + width).saturating_sub(inner + NUMBER + 2);
        if bar > 2 {
            canvas.bar(inner, row, bar, waits.unwrap_or(0.0));
            canvas.put_right(inner + bar, row, NUMBER, &percent(waits), PLAIN);
        } else {
            canvas.put(inner, row, (x + width).saturating_sub(inner), &percent(waits), PLAIN);
        }
    }
}

/// The style of a row about something that is so full.
fn alarming(percent: Option<f64>) -> Style {
    percent.filter(|percent| *percent >= HIGH).map_or(PLAIN, colour)
}

fn io_lines(canvas: &mut Canvas<'_>, view: &View) {
    let whole = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}%"));
    let columns = (canvas.area.width / COLUMN).clamp(1, 3);
    // Two cells stay free between columns.
    let (width, inner) = (canvas.area.width / columns, (canvas.area.width / columns).saturating_sub(2));
    let disks = view.disks.iter().map(|disk| {
        let rates = [disk.read_bytes_per_second, disk.written_bytes_per_second].map(short);
        let cells = rates.into_iter().chain([whole(disk.utilization_percent)]).collect();
        (disk.device.as_str(), cells, alarming(disk.utilization_percent))
    });
    table(canvas, 0, inner, &["DISK", "rd", "wr", "busy"], disks);
    let networks = view.networks.iter().map(|network| {
        let rates = [network.receive_bytes_per_second, network.transmit_bytes_per_second].map(short);
        (network.interface.as_str(), rates.to_vec(), PLAIN)
    });
    if columns > 1 {
        table(canvas, width, inner, &["NETWORK", "in", "out"], networks);
    }
    let file_systems = view.file_systems.iter().map(|file_system| {
        #[expect(clippy::cast_precision_loss, reason = "told with one decimal")]
        let left = short(file_system.available_bytes.map(|left| left as f64));
        let usage = Some(file_system.usage_percent);
        (file_system.mount.as_str(), vec![whole(usage), left], alarming(usage))
    });
    if columns > 2 {
        table(canvas, 2 * width, inner + 2, &["FILE SYSTEM", "used", "left"], file_systems);
    }
}

/// Draws a table whose first column takes what the others leave.
fn table<'a>(
    canvas: &mut Canvas<'_>,
    left: u16,
    width: u16,
    heads: &[&str],
    rows: impl Iterator<Item = (&'a str, Vec<String>, Style)>,
) {
    const CELL: u16 = 5;
    let cells = u16::try_from(heads.len().saturating_sub(1)).unwrap_or(u16::MAX);
    let names = width.saturating_sub(cells.saturating_mul(CELL));
    let mut line = |row: u16, name: &str, cells: &mut dyn Iterator<Item = &str>, style: Style| {
        canvas.put(left, row, names.saturating_sub(1), name, style);
        for (cell, x) in cells.zip((left + names..).step_by(usize::from(CELL))) {
            canvas.put_right(x, row, CELL, cell, style);
        }
    };
    if let Some((name, cells)) = heads.split_first() {
        line(0, name, &mut cells.iter().copied(), TITLE);
    }
    for (row, (name, cells, style)) in (1..).zip(rows).take(64) {
        line(row, name, &mut cells.iter().map(String::as_str), style);
    }
}

fn alert_lines(canvas: &mut Canvas<'_>, view: &View) {
    title(canvas, "ALERTS", &counted(view, view.alerts.len(), "open"));
    for (row, Open { severity, age_seconds, message, .. }) in (1..canvas.area.height).zip(&view.alerts) {
        let style = match *severity {
            "info" => PLAIN,
            "warn" => LESSER,
            "critical" => BAD,
            _ => BAD.reversed(),
        };
        canvas.put(0, row, 9, &severity.to_uppercase(), style);
        canvas.put_right(10, row, 7, &duration(std::time::Duration::from_secs(*age_seconds)), PLAIN);
        canvas.put(19, row, u16::MAX, message, PLAIN);
    }
}

/// What a column of the table of processes tells of one.
type Cell = fn(&Process) -> String;

fn process_lines(canvas: &mut Canvas<'_>, view: &View, controls: &Controls) {
    let processes = &view.processes;
    let mut top: Vec<Process> = processes.top.clone();
    sort(&mut top, controls.sort);
    // From the right, columns go where there is no room for them; the name takes what is left of its own.
    let columns: [(&str, u16, Cell); 4] = [
        ("CPU", 8, |process| percent(process.cpu_percent)),
        ("RSS", 11, |process| bytes(process.rss_bytes)),
        ("THREADS", 8, |process| number(process.threads)),
        ("FDS", 8, |process| number(process.fds)),
    ];
    let width = canvas.area.width;
    let comm = width.saturating_sub(35 + 9).clamp(8, COMM);
    let mut line = |row: u16, pid: &str, name: &str, cells: &mut dyn Iterator<Item = String>, style: Style| {
        canvas.put_right(0, row, 8, pid, style);
        canvas.put(9, row, comm, name, style);
        let mut x = 9 + comm;
        for ((_, cell, _), text) in columns.iter().zip(cells) {
            if x + cell > width {
                return;
            }
            canvas.put_right(x, row, *cell, &text, style);
            x += cell;
        }
    };
    line(0, "PID", "PROCESS", &mut columns.iter().map(|(name, ..)| (*name).to_owned()), TITLE);
    let most = top.len().saturating_sub(1);
    for (row, process) in (1..).zip(top.iter().skip(controls.skip.min(most))).take(usize::from(u16::MAX) - 1) {
        line(row, &process.pid.to_string(), &process.comm, &mut columns.iter().map(|(.., cell)| cell(process)), PLAIN);
    }
    let numbers = [processes.count, processes.threads, processes.zombies, processes.uninterruptible].map(number);
    let [count, threads, zombies, blocked] = numbers;
    let totals = format!("{count} processes, {threads} threads, {zombies} zombies, {blocked} in D");
    // Beside the head of the table, where a screen is wide enough for both.
    let room = width.saturating_sub(9 + comm + 35 + 2);
    if totals.len() <= usize::from(room) {
        canvas.put_right(width - room, 0, room, &totals, DIM);
    }
}

fn event_lines(canvas: &mut Canvas<'_>, view: &View) {
    title(canvas, "KERNEL EVENTS", &counted(view, view.events.len(), "seen"));
    for (row, Event { time, source, text }) in (1..canvas.area.height).zip(&view.events) {
        canvas.put(0, row, 8, time.get(11..19).unwrap_or_default(), DIM);
        canvas.put(9, row, 9, source, DIM);
        canvas.put(19, row, u16::MAX, text, PLAIN);
    }
}

fn title(canvas: &mut Canvas<'_>, name: &str, what: &str) {
    let x = canvas.put(0, 0, u16::MAX, name, TITLE);
    canvas.put(x + 2, 0, u16::MAX, what, DIM);
}

/// How many there are, and for how long anybody has looked.
fn counted(view: &View, count: usize, what: &str) -> String {
    let looked = std::time::Duration::try_from_secs_f64(view.watched_seconds).map_or(String::new(), duration);
    format!("{} {what}, watching for {looked}", if count == 0 { "none".to_owned() } else { count.to_string() })
}
