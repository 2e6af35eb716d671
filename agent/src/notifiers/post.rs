//! A message as chats show it, before a channel gives it markup, and how it is made to fit what a service takes.
//!
//! What matters most gets the room first: the sentence of the alert that leads, those of the others, then the facts of the one that
//! leads, then its lists. What finds no room is counted. All text is plain, without control characters.

use super::Sender;
use super::card::{Card, Lines, brief, counts, labels, remarks};
use super::text::clip;
use crate::model::{Alert, Message, Severity, Status};

/// Text of a message that somebody still reads, in bytes; for services that take more.
pub(super) const READABLE: usize = 6000;
/// Room for the sentence of the alert that leads, whatever else there is.
const LEAST: usize = 300;
/// Longest title, in bytes.
const TITLE_MAX: usize = 120;
/// Longest name of a fact or list, in bytes.
const NAME_MAX: usize = 64;
/// Longest remark, or labels in one line, in bytes.
const REMARK_MAX: usize = 400;

/// What colours and marks follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Over,
    Info,
    Warn,
    Critical,
    Emergency,
}

impl Tone {
    fn of(alert: &Alert) -> Self {
        match (alert.status, alert.severity) {
            (Status::Resolved, _) => Self::Over,
            (_, Severity::Info) => Self::Info,
            (_, Severity::Warn) => Self::Warn,
            (_, Severity::Critical) => Self::Critical,
            (_, Severity::Emergency) => Self::Emergency,
        }
    }

    /// 24-bit RGB, where no key says another.
    pub(super) fn rgb(self) -> u32 {
        match self {
            Self::Over => 0x2e_8b57,
            Self::Info => 0x34_98db,
            Self::Warn => 0xff_a500,
            Self::Critical => 0xff_0000,
            Self::Emergency => 0x8b_0000,
        }
    }
}

/// A message within a certain room.
pub(super) struct Post {
    /// Of the alert that leads.
    pub(super) tone: Tone,
    /// Status, severity and host; of a group how many alerts it stands for.
    pub(super) title: String,
    /// The alerts, in the message's order; one where it is no group.
    pub(super) sections: Vec<Section>,
    /// What else there is to say, and what found no room.
    pub(super) remarks: Vec<String>,
    /// Time and host.
    pub(super) foot: String,
}

/// An alert.
pub(super) struct Section {
    /// Of this alert.
    pub(super) tone: Tone,
    /// The sentence; in a group with severity and duration before it.
    pub(super) text: String,
    /// Labels in one line, where the facts do not hold them.
    pub(super) labels: String,
    /// Name and value, neither empty.
    pub(super) facts: Vec<(String, String)>,
    /// Stacks, tables.
    pub(super) lists: Vec<List>,
}

/// Evidence of several lines.
pub(super) struct List {
    pub(super) name: String,
    pub(super) lines: Vec<String>,
    /// How many lines it has beyond.
    pub(super) more: usize,
}

impl Post {
    /// What a notification shows of it: the title and the sentence that leads.
    pub(super) fn summary(&self) -> String {
        let sentence = self.sections.first().map_or("", |section| &section.text);
        if sentence.is_empty() || self.sections.len() > 1 {
            return self.title.clone();
        }
        clip(&format!("{}: {sentence}", self.title), LEAST).into_owned()
    }
}

/// The fullest rendering that fits: with all that there is to say in at most `most` bytes of text and `sections` alerts, or with as
/// much less as it takes.
pub(super) fn fullest<T>(
    (message, sender): (&Message, &Sender),
    (most, sections): (usize, usize),
    render: impl Fn(&Post) -> T,
    fits: impl Fn(&T) -> bool,
) -> T {
    let draft = Draft::of(message, sender);
    let make = |room| render(&draft.post(room, sections));
    let full = make(most);
    if fits(&full) {
        return full;
    }
    let mut best = make(0);
    let (mut low, mut high) = (0, most);
    while high - low > 16 {
        let middle = low.midpoint(high);
        let tried = make(middle);
        if fits(&tried) {
            (low, best) = (middle, tried);
        } else {
            high = middle;
        }
    }
    best
}

/// What stands around a text of other words: title, colour, time and host.
pub(super) fn frame(message: &Message, sender: &Sender) -> Post {
    Post { sections: Vec::new(), remarks: Vec::new(), ..Draft::of(message, sender).post(0, 0) }
}

/// The length of a text as services count characters: in UTF-16 code units, which are never fewer than characters.
pub(super) fn utf16(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The lines of a list, each with its markup, within `max` characters.
pub(super) fn fold(list: &List, max: usize, markup: impl Fn(&str) -> String) -> String {
    // For the line that counts the rest.
    let max = max.saturating_sub(32);
    let mut text = String::new();
    let mut size = 0;
    let mut more = list.more + list.lines.len();
    for line in &list.lines {
        let line = markup(line);
        size += utf16(&line) + 1;
        if size > max {
            break;
        }
        more -= 1;
        text.push_str(&line);
        text.push('\n');
    }
    if more > 0 {
        text.push_str(&format!("… {more} more\n"));
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// Text between fences of three backticks: no two of its own stay together.
pub(super) fn fenced(text: &str) -> String {
    text.replace('`', "`\u{200b}")
}

/// All that there is to say.
struct Draft {
    tone: Tone,
    title: String,
    /// Index of the alert that leads.
    lead: usize,
    card: Option<Card>,
    /// Tone, sentence and labels of each alert.
    alerts: Vec<(Tone, String, String)>,
    is_group: bool,
    remarks: Vec<String>,
}

impl Draft {
    fn of(message: &Message, sender: &Sender) -> Self {
        let is_group = message.is_group();
        let lead = message.lead();
        let card = lead.map(|lead| Card::of(lead, sender));
        let alert = |alert: &Alert| {
            let sentence = if is_group { brief(alert) } else { card.as_ref().map_or(String::new(), |card| card.message.clone()) };
            let sentence = if alert.message.trim().is_empty() { format!("{sentence}{}", alert.metric) } else { sentence };
            (Tone::of(alert), sentence, clip(&labels(alert), REMARK_MAX).into_owned())
        };
        let title = match &card {
            Some(card) if !is_group => card.title.clone(),
            _ => format!("{} ({})", counts(message), super::escape(&sender.hostname)),
        };
        Self {
            tone: lead.map_or(Tone::Info, Tone::of),
            title: clip(&title, TITLE_MAX).into_owned(),
            lead: message.alerts().position(|alert| lead.is_some_and(|lead| std::ptr::eq(lead, alert))).unwrap_or(0),
            alerts: message.alerts().map(alert).collect(),
            card,
            is_group,
            remarks: remarks(message).iter().map(|remark| clip(remark, REMARK_MAX).into_owned()).collect(),
        }
    }

    fn post(&self, most: usize, sections: usize) -> Post {
        let mut left = most;
        let mut take = |text: &str| {
            let rest = left.checked_sub(text.len() + 1);
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let mut chosen: Vec<Option<Section>> = Vec::new();
        chosen.resize_with(self.alerts.len(), || None);
        let others = (0..self.alerts.len()).filter(|index| *index != self.lead);
        for index in std::iter::once(self.lead).chain(others).take(sections) {
            let Some((tone, text, labels)) = self.alerts.get(index) else { continue };
            let is_lead = index == self.lead;
            let text = if is_lead { clip(text, most.max(LEAST)) } else { text.as_str().into() };
            if !take(&text) && !is_lead {
                continue;
            }
            let labels = if self.is_group && !is_lead && take(labels) { labels.clone() } else { String::new() };
            let section = Section { tone: *tone, text: text.into_owned(), labels, facts: Vec::new(), lists: Vec::new() };
            if let Some(place) = chosen.get_mut(index) {
                *place = Some(section);
            }
        }
        let unseen = chosen.iter().filter(|section| section.is_none()).count();
        let mut left_out = 0;
        if let (Some(Some(section)), Some(card)) = (chosen.get_mut(self.lead), &self.card) {
            left_out = details(section, card, &mut take);
        }
        let mut remarks = self.remarks.clone();
        if unseen > 0 {
            remarks.push(format!("{unseen} further alerts found no room here"));
        }
        if left_out > 0 {
            remarks.push(format!("{left_out} further facts and lists found no room here"));
        }
        let foot = self.card.as_ref().map_or(String::new(), |card| format!("{} · {}", card.time, card.host));
        Post {
            tone: self.tone,
            title: self.title.clone(),
            sections: chosen.into_iter().flatten().collect(),
            remarks,
            foot: clip(&foot, REMARK_MAX).into_owned(),
        }
    }
}

/// Facts and lists as far as there is room, and how many of them are left out.
fn details(section: &mut Section, card: &Card, take: &mut impl FnMut(&str) -> bool) -> usize {
    let mut left_out = 0;
    let plain = card.facts.iter().map(|(name, value)| (name, value));
    let short = card.evidence.iter().filter_map(|(name, lines)| match lines {
        Lines::One(value) => Some((name, value)),
        Lines::Many { .. } => None,
    });
    for (name, value) in plain.chain(short) {
        let (name, value) = (clip(&visible(name), NAME_MAX).into_owned(), visible(value));
        if take(&name) && take(&value) {
            section.facts.push((name, value));
        } else {
            left_out += 1;
        }
    }
    for (name, lines) in &card.evidence {
        let Lines::Many { first, more } = lines else { continue };
        let name = clip(&visible(name), NAME_MAX).into_owned();
        let fitting: Vec<String> = first.iter().take_while(|line| take(line)).cloned().collect();
        if fitting.is_empty() {
            left_out += 1;
            continue;
        }
        section.lists.push(List { more: more + first.len() - fitting.len(), name, lines: fitting });
    }
    left_out
}

/// A text that shows: services refuse what is empty once blanks at its ends are cut.
fn visible(text: &str) -> String {
    if text.trim().is_empty() { format!("\"{text}\"") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_folded_to_what_fits() {
        let list = List { name: "x".into(), lines: vec!["äöü𝄞".into(); 10], more: 5 };
        assert_eq!(fold(&list, 1000, str::to_owned).lines().count(), 11);
        let short = fold(&list, 32 + 12, str::to_owned);
        assert_eq!(short, "äöü𝄞\näöü𝄞\n… 13 more");
        assert_eq!(fold(&list, 0, str::to_owned), "… 15 more");
        assert_eq!(utf16("äöü𝄞"), 5);
    }

    #[test]
    fn no_fence_is_closed_from_inside() {
        for ticks in 1..8 {
            assert!(!fenced(&"`".repeat(ticks)).contains("``"));
        }
    }
}
