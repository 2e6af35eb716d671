//! The two bodies of a message: as text, and as HTML that needs no image and no style sheet. They say the same.
//!
//! What a body may take is divided between the alerts: of each as much as there is room for, the sentence and the facts first.

use std::fmt::Write as _;

use super::super::Sender;
use super::super::card::{Card, Lines, brief, counts, host, remarks, time, title};
use crate::model::{Alert, Message, Severity, Status};

/// Most that the text may take when it is encoded as quoted-printable, in bytes.
const TEXT_MAX: usize = 64 * 1024;
/// The same for the HTML. Both with their headers make less than 256 kB.
const HTML_MAX: usize = 160 * 1024;
/// Most alerts that a group lists in one line each, before it shows them.
const OVERVIEW_MAX: usize = 20;
/// What is kept for the remarks, and for the end of the message, of each body.
const REMARKS: usize = 8 * 1024;
const END: usize = 2 * 1024;

const FONT: &str = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif";
const MONO: &str = "font-family:ui-monospace,Menlo,Consolas,'Liberation Mono',monospace";
const GREY: &str = "color:#5f6368";

/// Both bodies.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) html: String,
}

/// The bodies of a message.
pub(super) fn page(message: &Message, sender: &Sender, subject: &str, templated: Option<&str>) -> Page {
    let mut sheet = Sheet { text: Body::new(TEXT_MAX - REMARKS - END), html: Body::new(HTML_MAX - REMARKS - END) };
    sheet.add(
        "",
        &format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n</head>\n\
             <body style=\"margin:0;padding:12px;background:#f1f3f4;color:#202124;font-size:14px;line-height:1.4;{FONT}\">\n",
            markup(subject)
        ),
    );
    let is_templated = templated.is_some_and(|templated| sheet.templated(message, sender, templated));
    if !is_templated {
        sheet.built_in(message, sender);
    }
    sheet.text.room += END;
    sheet.html.room += END;
    let at = message.lead().map(|lead| time(lead, sender)).unwrap_or_default();
    let program = concat!("sysops-agent ", env!("CARGO_PKG_VERSION"));
    let end = format!("{} at {at}", host(sender));
    sheet.add(
        &format!("-- \n{end}\n{program}\n"),
        &format!(
            "<p style=\"max-width:680px;margin:12px auto;font-size:12px;{GREY}\">{}<br>{program}</p>\n</body>\n</html>\n",
            markup(&end)
        ),
    );
    Page { text: sheet.text.written, html: sheet.html.written }
}

/// Both bodies while they grow.
struct Sheet {
    text: Body,
    html: Body,
}

struct Body {
    written: String,
    /// What it may still take, encoded.
    room: usize,
}

impl Body {
    fn new(room: usize) -> Self {
        Self { written: String::new(), room }
    }

    fn push(&mut self, piece: &str) {
        self.room = self.room.saturating_sub(weight(piece));
        self.written.push_str(piece);
    }
}

impl Sheet {
    /// Everything that there is room for.
    fn built_in(&mut self, message: &Message, sender: &Sender) {
        let alerts: Vec<_> = message.alerts().collect();
        if message.is_group() {
            self.overview(message, &alerts);
        }
        let mut left_out = 0_u64;
        for (index, alert) in alerts.iter().enumerate() {
            if !self.alert(alert, &Card::of(alert, sender), alerts.len() - index) {
                left_out += 1;
            }
        }
        let mut remarks = remarks(message);
        if left_out > 0 {
            remarks.push(format!("{left_out} more alerts do not fit into one message"));
        }
        self.text.room += REMARKS;
        self.html.room += REMARKS;
        for remark in remarks {
            self.add(
                &format!("{remark}\n\n"),
                &format!("<p style=\"max-width:680px;margin:12px auto\">{}</p>\n", markup(&remark)),
            );
        }
    }

    /// The HTML of a template below the title; false where it does not fit.
    fn templated(&mut self, message: &Message, sender: &Sender, templated: &str) -> bool {
        let Some(lead) = message.lead() else { return false };
        let title = if message.is_group() { counts(message) } else { title(lead, sender) };
        let html = format!(
            "{}<div style=\"margin-top:4px;white-space:pre-line\">{templated}</div>\n</div>\n",
            frame(colour(lead), &title)
        );
        self.add(&format!("{title}\n\n{}\n\n", plain(templated)), &html)
    }

    /// Adds to both bodies, where both have the room.
    fn add(&mut self, text: &str, html: &str) -> bool {
        let fits = weight(text) <= self.text.room && weight(html) <= self.html.room;
        if fits {
            self.text.push(text);
            self.html.push(html);
        }
        fits
    }

    /// What it is all about: how many alerts, and each in one line.
    fn overview(&mut self, message: &Message, alerts: &[&Alert]) {
        let counts = counts(message);
        self.add(
            &format!("{counts}\n\n"),
            &format!("<p style=\"max-width:680px;margin:0 auto 12px;font-weight:bold\">{}</p>\n", markup(&counts)),
        );
        for alert in alerts.iter().take(OVERVIEW_MAX) {
            let line = brief(alert);
            let html = format!(
                "<p style=\"max-width:680px;margin:2px auto\"><span style=\"color:{}\">&#9632;</span> {}</p>\n",
                colour(alert),
                markup(&line)
            );
            self.add(&format!("  {line}\n"), &html);
        }
        self.add("\n", "<br>\n");
    }

    /// Adds an alert, which shares the room with those that follow; false where there is none.
    fn alert(&mut self, alert: &Alert, card: &Card, sharing: usize) -> bool {
        let share = |room: usize| room - room / sharing.max(1);
        let (text_end, html_end) = (share(self.text.room), share(self.html.room));
        let colour = colour(alert);
        let begin = format!(
            "{}<div style=\"margin:4px 0 8px;font-size:16px\">{}</div>\n\
             <table style=\"border-collapse:collapse;font-size:13px;{MONO}\">\n",
            frame(colour, &card.title),
            markup(&card.message)
        );
        let text = format!("{}\n{}\n\n", card.title, card.message);
        let close = "</table>\n</div>\n";
        self.html.room = self.html.room.saturating_sub(weight(close));
        if !self.add(&text, &begin) {
            return false;
        }
        // From here on, what this alert may take ends where the share of the others begins.
        let (text_rest, html_rest) = (text_end.min(self.text.room), html_end.min(self.html.room));
        self.text.room -= text_rest;
        self.html.room -= html_rest;
        let is_whole = self.details(card);
        self.text.room += text_rest;
        self.html.room += html_rest;
        if !is_whole {
            self.add("  (shortened)\n\n", &row("(shortened)", ""));
        }
        self.html.written.push_str(close);
        true
    }

    /// Facts and evidence; false where something had to be left out.
    fn details(&mut self, card: &Card) -> bool {
        let time = ("Time".to_owned(), card.time.clone());
        let ones = card.evidence.iter().filter_map(|(name, lines)| match lines {
            Lines::One(value) => Some((name, value)),
            Lines::Many { .. } => None,
        });
        let facts: Vec<_> = card.facts.iter().chain([&time]).map(|(name, value)| (name, value)).chain(ones).collect();
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(24);
        let mut is_whole = true;
        for (name, value) in facts {
            is_whole &= self.add(&format!("  {name:<width$}  {value}\n"), &row(name, &markup(value)));
        }
        for (name, lines) in &card.evidence {
            let Lines::Many { first, more } = lines else { continue };
            let mut text = format!("\n  {name}\n");
            let mut html = String::new();
            for line in first {
                let _ = writeln!(text, "    {line}");
                let _ = writeln!(html, "{}<br>", markup(line));
            }
            if *more > 0 {
                let _ = writeln!(text, "    … {more} more");
                let _ = writeln!(html, "… {more} more");
            }
            is_whole &= self.add(&text, &row(name, &html));
        }
        self.add("\n", "");
        is_whole
    }
}

/// The begin of a box with its title.
fn frame(colour: &str, title: &str) -> String {
    format!(
        "<div style=\"max-width:680px;margin:0 auto 12px;padding:12px 16px;background:#ffffff;border:1px solid #dadce0;\
         border-left:6px solid {colour}\">\n<div style=\"font-weight:bold;color:{colour}\">{}</div>\n",
        markup(title)
    )
}

/// HTML as text: without its tags. Only a template has tags; what was put into it has entities in their place.
fn plain(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        let (tag, after) = tag.split_once('>').unwrap_or((tag, ""));
        if ["br", "br/", "br /", "/p", "/div", "/li", "/tr"].contains(&tag.to_ascii_lowercase().as_str()) {
            text.push('\n');
        }
        rest = after;
    }
    text.push_str(rest);
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text, |text, (entity, meant)| text.replace(entity, meant))
}

/// A row of an alert's table: a name, and a value in HTML.
fn row(name: &str, value: &str) -> String {
    format!(
        "<tr style=\"vertical-align:top\"><td style=\"padding:1px 16px 1px 0;{GREY}\">{}</td><td>{value}</td></tr>\n",
        markup(name)
    )
}

/// Bytes that a piece takes as quoted-printable (RFC 2045, section 6.7), its soft line breaks counted.
fn weight(piece: &str) -> usize {
    let plain = piece.bytes().filter(|byte| matches!(byte, b' '..=b'~') && *byte != b'=').count();
    let bytes = plain + 3 * (piece.len() - plain);
    bytes + bytes / 20
}

fn colour(alert: &Alert) -> &'static str {
    match (alert.status, alert.severity) {
        (Status::Resolved, _) => "#188038",
        (_, Severity::Info) => "#1a73e8",
        (_, Severity::Warn) => "#b06000",
        (_, Severity::Critical) => "#d93025",
        (_, Severity::Emergency) => "#8b0000",
    }
}

/// Text as HTML: whatever it holds, it stays text.
pub(super) fn markup(text: &str) -> String {
    let mut markup = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => markup.push_str("&amp;"),
            '<' => markup.push_str("&lt;"),
            '>' => markup.push_str("&gt;"),
            '"' => markup.push_str("&quot;"),
            '\'' => markup.push_str("&#39;"),
            other => markup.push(other),
        }
    }
    markup
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_of_a_template_reads_as_text() {
        let html = "<b>WARN</b> a &lt;b&gt; &amp;amp;<br>next<p class=\"x\">par</p>end <";
        assert_eq!(plain(html), "WARN a <b> &amp;\nnextpar\nend ");
    }
}
