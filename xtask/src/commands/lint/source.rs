//! Reads Rust just well enough to list the paths that it names.
//!
//! Leaves out comments, literals and what is compiled for tests alone. Expands `use a::{b, c::d}`. Does not follow aliases
//! (`use a as b`), nor what macros make; those who write against the table on purpose are found in review.

/// A path that the source names, such as `crate::model::Severity`.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    /// Line of its first segment, from 1.
    pub line: usize,
    /// Its segments.
    pub path: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    Word(&'a str),
    /// `::`
    Colons,
    Other(char),
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    line: usize,
    kind: Kind<'a>,
}

/// All paths in a source file.
pub fn paths(text: &str) -> Vec<Named> {
    let tokens = without_tests(&tokens(text));
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = matches!(tokens[at].kind, Kind::Word(_))
            && (at == 0 || !matches!(tokens[at - 1].kind, Kind::Colons | Kind::Other('.' | '\'')));
        at = if starts { path(&tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

/// Takes the path that begins at `at`, behind `prefix`, with all branches of its braces; gives the place behind it.
fn path(tokens: &[Token<'_>], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let mut segments = prefix.to_vec();
    let Some(line) = tokens.get(at).map(|token| token.line) else { return at };
    loop {
        match tokens.get(at).map(|token| token.kind) {
            Some(Kind::Word(word)) => {
                segments.push(word.to_owned());
                at += 1;
                if tokens.get(at).map(|token| token.kind) != Some(Kind::Colons) {
                    break;
                }
                at += 1;
            }
            Some(Kind::Other('{')) => {
                at += 1;
                while let Some(token) = tokens.get(at) {
                    at = match token.kind {
                        Kind::Other('}') => return at + 1,
                        Kind::Word("as") => at + 2,
                        Kind::Word(_) => path(tokens, at, &segments, found),
                        _ => at + 1,
                    };
                }
                return at;
            }
            _ => break,
        }
    }
    found.push(Named { line, path: segments });
    at
}

/// Drops each item that follows `#[cfg(test)]`.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const ATTRIBUTE: [Kind<'static>; 7] = [
        Kind::Other('#'),
        Kind::Other('['),
        Kind::Word("cfg"),
        Kind::Other('('),
        Kind::Word("test"),
        Kind::Other(')'),
        Kind::Other(']'),
    ];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let attribute = tokens[at..].iter().map(|token| token.kind).take(ATTRIBUTE.len());
        if attribute.eq(ATTRIBUTE) {
            at = end_of_item(tokens, at + ATTRIBUTE.len());
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// The place behind the item that begins at `at`: behind its `;`, or behind the brace that closes it.
fn end_of_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.kind {
            Kind::Other('(' | '[' | '{') => depth += 1,
            Kind::Other(close @ (')' | ']' | '}')) => {
                depth = depth.saturating_sub(1);
                // The braces of `use a::{b};` are not the end of it, but nothing is lost: a lone `;` remains.
                if depth == 0 && close == '}' {
                    return at;
                }
            }
            Kind::Other(';') if depth == 0 => return at,
            _ => {}
        }
    }
    at
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (length, kind) = next(rest, first);
        let (token, after) = rest.split_at(length);
        tokens.extend(kind.map(|kind| Token { line, kind }));
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// Length of the token that `rest` begins with, and what it is; nothing for blanks, comments and literals.
fn next(rest: &str, first: char) -> (usize, Option<Kind<'_>>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), None);
    }
    if let Some(length) = raw_string(rest) {
        return (length, None);
    }
    if first == '"' {
        return (quoted(rest, '"'), None);
    }
    if first == '\'' {
        // A lifetime is a quote and a word that no quote follows.
        let word = word(&rest[1..]);
        let lifetime = word > 0 && !rest[1 + word..].starts_with('\'');
        return if lifetime { (1 + word, None) } else { (quoted(rest, '\''), None) };
    }
    if rest.starts_with("::") {
        return (2, Some(Kind::Colons));
    }
    match word(rest) {
        0 if first.is_whitespace() => (first.len_utf8(), None),
        0 => (first.len_utf8(), Some(Kind::Other(first))),
        length if first.is_ascii_digit() => (length, None),
        length => (length, Some(Kind::Word(&rest[..length]))),
    }
}

fn word(text: &str) -> usize {
    text.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(text.len())
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Length of `r"…"`, `r#"…"#`, with or without a leading `b` or `c`.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", &after[..hashes]);
    let close = body.find(&end).map_or(body.len(), |close| close + end.len());
    Some(text.len() - body.len() + close)
}

/// Length of a literal in quotes with backslash escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if !escaped && character == quote {
            return at + 1;
        }
        escaped = !escaped && character == '\\';
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        paths(text).iter().map(|named| format!("{}:{}", named.line, named.path.join("::"))).collect()
    }

    #[test]
    fn braces_are_expanded_and_lines_kept() {
        assert_eq!(
            named("use std::{fs, io::{self, Read as R}};\nlet x = a::b(c.d);"),
            ["1:use", "1:std::fs", "1:std::io::self", "1:std::io::Read", "2:let", "2:x", "2:a::b", "2:c"]
        );
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        assert_eq!(
            named("// a::b\n/* c /* d */ e::f */ \"g::\\\"h\" r#\"i \" j\"# b\"k\" 'l' '\\'' '\"' 1_u8 m"),
            ["2:b", "2:m"]
        );
    }

    #[test]
    fn lifetimes_do_not_open_a_literal() {
        assert_eq!(named("fn f<'a>(x: &'a T) {}"), ["1:fn", "1:f", "1:x", "1:T"]);
    }

    #[test]
    fn what_is_for_tests_alone_is_left_out() {
        assert_eq!(named("a;\n#[cfg(test)]\nmod tests { use b::c; fn d() { e } }\nf"), ["1:a", "4:f"]);
        assert_eq!(named("#[cfg(test)]\nmod tests;\nf"), ["3:f"]);
        assert_eq!(named("#[cfg(test)]\n#[allow(x)]\nuse a::{b, c};\nf"), ["4:f"]);
    }
}
