//! What a composed state looks like. `UPDATE_EXPECT=1` writes the files in `tests/golden/top` anew.

use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use sysops_agent::commands::top::{Controls, Sort, View, draw, text};

use super::state::{FRIENDLY, HOSTILE, State, busy, time};

fn compare(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/top").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs (UPDATE_EXPECT=1 accepts it)", path.display());
}

/// What a terminal of this size shows.
fn shown(view: &View, controls: &Controls, width: u16, height: u16) -> String {
    terminal(view, controls, width, height).backend().to_string()
}

fn terminal(view: &View, controls: &Controls, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(view, controls, frame.area(), frame.buffer_mut())).unwrap();
    terminal
}

#[test]
fn a_busy_host_looks_like_this() {
    let view = busy(&FRIENDLY).view();
    let controls = Controls { keys: true, ..Controls::default() };
    for (width, height) in [(80, 24), (132, 43), (60, 16), (30, 10), (200, 8)] {
        compare(&format!("{width}x{height}.txt"), &shown(&view, &controls, width, height));
    }
    compare("once.txt", &text(&view, 80, 24));
    compare("view.json", &format!("{:#}\n", serde_json::to_value(&view).unwrap()));
}

#[test]
fn before_the_first_reading_nothing_is_made_up() {
    let mut state = State::new();
    compare("empty.txt", &text(&state.view(), 80, 24));
    state.now = time(1);
    state.collect("memory", &[("memory_total_bytes", &[], 1024.0)]);
    assert!(text(&state.view(), 80, 24).contains("- of 1.0 KiB"));
}

#[test]
fn processes_are_sorted_and_scrolled() {
    let view = busy(&FRIENDLY).view();
    let order = |controls: Controls| {
        let page = shown(&view, &controls, 80, 24);
        let mut found: Vec<_> = ["postgres  ", "systemd  ", "node  "]
            .into_iter()
            .filter_map(|name| Some((page.find(&format!(" {name}"))?, name.trim_end())))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    let controls = Controls::default();
    assert_eq!(order(controls), ["postgres", "node", "systemd"]);
    assert_eq!(order(Controls { sort: Sort::Rss, ..controls }), ["node", "postgres", "systemd"]);
    assert_eq!(order(Controls { skip: 1, ..controls }), ["node", "systemd"]);
    assert_eq!(order(Controls { skip: usize::MAX, ..controls }), ["systemd"], "the last one stays");
}

#[test]
fn hostile_names_act_on_no_terminal() {
    let view = busy(&HOSTILE).view();
    let page = text(&view, 132, 43);
    let acts = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
    assert!(!page.contains(acts), "{page}");
    for escaped in [r"a\u{1b}[2J\u{9b}m\n", r"sd\u{202e}a", r"e\r\u{7}\u{8}", r"/mnt/\u{1b}]0;x\u{7}"] {
        assert!(page.contains(escaped), "{escaped}: {page}");
    }
    assert!(page.contains(r"killed a\u{1b}[2J"), "in an alert: {page}");
    assert_eq!(page.lines().filter(|line| line.contains("is told of in an error")).count(), 1);
}

#[test]
fn no_size_panics_and_nothing_is_drawn_outside() {
    for names in [&FRIENDLY, &HOSTILE] {
        let view = busy(names).view();
        for width in (0..=90).chain([133, 250]) {
            for height in (0..=30).chain([80]) {
                terminal(&view, &Controls { keys: true, skip: 1, sort: Sort::Rss }, width, height);
                assert!(text(&view, width, height).lines().count() <= usize::from(height).max(1), "{width}x{height}");
            }
        }
    }
    // An area that the terminal no longer has, as between two changes of its size.
    let mut buffer = Buffer::empty(Rect::new(0, 0, 20, 5));
    draw(&busy(&FRIENDLY).view(), &Controls::default(), Rect::new(3, 2, 300, 300), &mut buffer);
}
