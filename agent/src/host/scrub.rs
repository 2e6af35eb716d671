//! Takes passwords and tokens out of command lines, which every user of the host can read but which do not belong into alerts.
//!
//! What a thing is called decides: options, variables, parameters and headers with the name of a secret; logins in URLs; the options of
//! some well-known programs; and tokens that are known by their shape. It is a safety net, not a proof: a secret that looks like
//! any other word is not found. Each byte is looked at a bounded number of times.

/// What stands in place of a secret.
const HIDDEN: &[u8] = b"***";

/// The arguments of `/proc/PID/cmdline`, which zero bytes separate, with a blank between them and without secrets.
pub(super) fn command_line(arguments: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(arguments.len() + 16);
    let mut words = Words::default();
    let is_title = !arguments.contains(&0);
    let mut previous: &[u8] = b"";
    for (index, argument) in arguments.split(|byte| *byte == 0).enumerate() {
        if index > 0 {
            line.push(b' ');
        }
        let is_script = is_title || is_script_option(previous);
        if argument.iter().any(u8::is_ascii_whitespace) && words.next == Next::Shown {
            let mut scrubbed = Vec::with_capacity(argument.len());
            scrub(argument, !is_script, &mut scrubbed);
            Words { program: words.program, ..Words::default() }.sentence(&scrubbed, &mut line);
        } else {
            words.word(argument, true, &mut line);
        }
        previous = argument;
    }
    line
}

/// Whether a shell takes what follows for a script: `-c`, `-lc`, …
fn is_script_option(argument: &[u8]) -> bool {
    matches!(argument, [b'-', letters @ .., b'c'] if letters.iter().all(u8::is_ascii_lowercase))
}

/// What the next word is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Shown,
    /// A secret, unless it is a path and that is likely.
    Hidden(Kind),
    /// Name and secret with a colon or a percent sign between them.
    Login,
    /// Goes on with what was hidden, up to this quotation mark.
    Quoted(u8),
}

/// How sure the name of a thing makes it that it is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A secret.
    Secret,
    /// A secret, or the path of one, or a directory.
    SecretOrPath,
    /// A secret of several words.
    Header,
}

/// How an option of a program takes its secret.
#[derive(Clone, Copy)]
enum Takes {
    /// Behind it, without a blank.
    Attached,
    /// As the next word.
    Separate,
    /// In either way.
    Either,
    /// In either way, with a name before it.
    Login,
}

/// Names of programs with those of their options that take secrets and are not called so.
type Program = (&'static [&'static str], &'static [(&'static str, Takes)]);

#[rustfmt::skip]
const PROGRAMS: &[Program] = &[
    (&["mysql", "mysqldump", "mysqladmin", "mysqlimport", "mysqlshow", "mysqlcheck", "mysqlslap", "mysqlpump", "mysqlbinlog", "mysqlsh",
       "mariadb", "mariadb-dump", "mariadb-admin", "mariadb-check", "mariadb-import", "mariadb-backup", "mariabackup", "xtrabackup", "mycli"],
     &[("-p", Takes::Attached)]),
    (&["sshpass", "mongo", "mongosh", "mongodump", "mongorestore", "mongoexport", "mongoimport", "rabbitmqadmin"], &[("-p", Takes::Either)]),
    // `docker login`, `az login`, `oc login`
    (&["login"], &[("-p", Takes::Separate)]),
    (&["7z", "7za", "7zr", "rar", "unrar"], &[("-p", Takes::Attached), ("-hp", Takes::Attached)]),
    (&["zip", "unzip", "sqlcmd", "bcp", "ipmitool"], &[("-P", Takes::Either)]),
    (&["ldapsearch", "ldapmodify", "ldapadd", "ldapdelete", "ldapwhoami", "ldappasswd"], &[("-w", Takes::Either)]),
    (&["redis-cli"], &[("-a", Takes::Separate)]),
    (&["openssl"], &[("-k", Takes::Separate), ("-K", Takes::Separate)]),
    (&["curl"], &[("-u", Takes::Login), ("-U", Takes::Login), ("--user", Takes::Login), ("--proxy-user", Takes::Login),
                 ("-b", Takes::Separate)]),
    (&["http", "https"], &[("-a", Takes::Login), ("--auth", Takes::Login)]),
    (&["smbclient"], &[("-U", Takes::Login), ("--user", Takes::Login)]),
];

/// Goes from word to word.
#[derive(Default)]
struct Words {
    next: Next,
    program: Option<&'static Program>,
}

impl Words {
    /// Words with blanks between them, whose text is scrubbed already.
    fn sentence(mut self, text: &[u8], line: &mut Vec<u8>) {
        for piece in text.split_inclusive(u8::is_ascii_whitespace) {
            let word = piece.trim_ascii_end();
            if !word.is_empty() {
                self.word(word, false, line);
            }
            line.extend_from_slice(piece.get(word.len()..).unwrap_or_default());
        }
    }

    /// One word, or an argument; `is_raw` says that its text is not scrubbed yet.
    fn word(&mut self, word: &[u8], is_raw: bool, line: &mut Vec<u8>) {
        let bare = unquoted(word);
        match std::mem::take(&mut self.next) {
            Next::Shown => {}
            Next::Quoted(mark) => {
                if word.last() != Some(&mark) {
                    self.next = Next::Quoted(mark);
                }
                return line.extend_from_slice(HIDDEN);
            }
            // An option that was given without its value.
            Next::Hidden(_) | Next::Login if bare.starts_with(b"--") => {}
            Next::Hidden(Kind::SecretOrPath) if is_path(bare) => {}
            Next::Hidden(_) => {
                // Only a script has quotation marks around its words.
                if let (false, Some(mark @ (b'\'' | b'"'))) = (is_raw, word.first().copied())
                    && (word.len() == 1 || word.last() != Some(&mark))
                {
                    self.next = Next::Quoted(mark);
                }
                return line.extend_from_slice(HIDDEN);
            }
            Next::Login => return push_login(word, line),
        }
        let shown = self.look(bare);
        match shown {
            Some((length, true)) => push_login_after(bare, length, line),
            Some((length, false)) => {
                line.extend_from_slice(bare.get(..length).unwrap_or_default());
                line.extend_from_slice(HIDDEN);
            }
            None if is_raw => scrub(word, true, line),
            None => line.extend_from_slice(word),
        }
    }

    /// What a word says of itself and of the next: how many of its bytes are shown, where that are not all, and whether a login follows.
    fn look(&mut self, word: &[u8]) -> Option<(usize, bool)> {
        if word.eq_ignore_ascii_case(b"bearer") {
            self.next = Next::Hidden(Kind::Secret);
        } else if word.starts_with(b"pass:") && word.len() > 5 {
            return Some((5, false));
        } else if let [b'-', ..] = word {
            for (option, takes) in self.program.into_iter().flat_map(|program| program.1) {
                let attached = !option.starts_with("--") && word.starts_with(option.as_bytes()) && word.len() > option.len();
                match takes {
                    Takes::Attached | Takes::Either if attached => return Some((option.len(), false)),
                    Takes::Login if attached => return Some((option.len(), true)),
                    Takes::Separate | Takes::Either if word == option.as_bytes() => self.next = Next::Hidden(Kind::Secret),
                    Takes::Login if word == option.as_bytes() => self.next = Next::Login,
                    _ => {}
                }
            }
            if let Some(kind) = kind(word).filter(|_| !word.contains(&b'=') && !is_switch(word)) {
                self.next = Next::Hidden(kind);
            }
        } else {
            let name = word.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let program = PROGRAMS.iter().find(|(names, _)| names.iter().any(|known| known.as_bytes() == name));
            self.program = program.or(self.program);
        }
        None
    }
}

/// `name:***`
fn push_login(login: &[u8], line: &mut Vec<u8>) {
    push_login_after(login, 0, line);
}

fn push_login_after(word: &[u8], start: usize, line: &mut Vec<u8>) {
    let secret = word.iter().skip(start).position(|byte| b":%".contains(byte)).map(|at| start + at + 1);
    match secret {
        Some(at) if at < word.len() => {
            line.extend_from_slice(word.get(..at).unwrap_or_default());
            line.extend_from_slice(HIDDEN);
        }
        _ => line.extend_from_slice(word),
    }
}

fn unquoted(word: &[u8]) -> &[u8] {
    let is_mark = |byte: &u8| b"'\"".contains(byte);
    let start = word.iter().position(|byte| !is_mark(byte)).unwrap_or(word.len());
    let end = word.iter().rposition(|byte| !is_mark(byte)).map_or(start, |at| at + 1);
    word.get(start..end).unwrap_or_default()
}

fn is_path(value: &[u8]) -> bool {
    [&b"/"[..], b"~/", b"./", b"../"].iter().any(|start| value.starts_with(start))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

/// Copies a text without the secrets in it. `is_argument`: what begins with a name goes up to the end of the text.
fn scrub(text: &[u8], is_argument: bool, line: &mut Vec<u8>) {
    let rest = |at: usize| text.get(at..).unwrap_or_default();
    let mut copied = 0;
    let mut at = 0;
    // The run of name bytes before `at`.
    let (mut start, mut end) = (0, 0);
    // Up to where there is no `@`.
    let mut without_login = 0;
    while let Some(&byte) = text.get(at) {
        if is_name_byte(byte) {
            let run = rest(at).iter().position(|byte| !is_name_byte(*byte)).map_or(text.len(), |length| at + length);
            let word = text.get(at..run).unwrap_or_default();
            if let Some((shown, length)) = private_key(rest(at)).or_else(|| is_token(word).then_some((0, word.len()))) {
                hide(text, &mut copied, at + shown, at + length, line);
                at += length;
            } else {
                (start, end) = (at, run);
                at = run;
            }
            continue;
        }
        // Between a name and its sign there may be quotation marks, escaped ones too, and a blank.
        let between = text.get(end..at).unwrap_or_default();
        let is_named = end > start && between.len() <= 3 && between.iter().all(|byte| b"\\'\" ".contains(byte));
        let name = text.get(start..end).filter(|_| is_named).unwrap_or_default();
        let is_first = is_argument && start == text.len() - text.trim_ascii_start().len();
        at += 1;
        if byte == b':' && rest(at).starts_with(b"//") {
            at += 2;
            if let Some((from, to)) = login_in_url(text, at, &mut without_login) {
                hide(text, &mut copied, from, to, line);
                at = to;
            }
        } else if let (b'=' | b':', Some(kind)) = (byte, kind(name)) {
            let separator = start.checked_sub(1).and_then(|before| text.get(before)).copied().unwrap_or(b' ');
            if let Some((from, to)) = value(text, at, byte, kind, is_first, separator) {
                hide(text, &mut copied, from, to, line);
                at = to;
            }
        }
    }
    line.extend_from_slice(rest(copied));
}

/// Copies up to `from`, and hides what is between that and `to`.
fn hide(text: &[u8], copied: &mut usize, from: usize, to: usize, line: &mut Vec<u8>) {
    line.extend_from_slice(text.get(*copied..from).unwrap_or_default());
    line.extend_from_slice(HIDDEN);
    *copied = to;
}

/// From where to where the value goes that begins behind the sign before `at`, if it is to be hidden. `separator` stands before the name.
fn value(text: &[u8], at: usize, sign: u8, kind: Kind, is_first: bool, separator: u8) -> Option<(usize, usize)> {
    let mut from = at;
    let mut blanks = 0;
    while let Some(b' ' | b'\\') = text.get(from) {
        from += 1;
        blanks += 1;
    }
    let mark = text.get(from).copied().filter(|byte| b"'\"".contains(byte));
    // `-v secret:/run/secret` mounts something.
    if sign == b':' && blanks == 0 && mark.is_none() && kind != Kind::Secret {
        return None;
    }
    from += usize::from(mark.is_some());
    let rest = text.get(from..)?;
    let ends = |byte: &u8| match (mark, kind) {
        (Some(mark), _) => *byte == mark,
        _ if is_first => false,
        (None, Kind::Header) => b"'\"\n".contains(byte),
        (None, _) if byte.is_ascii_whitespace() || b"'\"".contains(byte) => true,
        (None, _) => match separator {
            b'?' | b'&' => b"&;#".contains(byte),
            b';' => *byte == b';',
            b',' | b'{' | b'[' | b'(' | b'"' | b'\'' => b",}])".contains(byte),
            _ => false,
        },
    };
    let value = rest.get(..rest.iter().position(ends).unwrap_or(rest.len()))?;
    let is_word = [&b""[..], b"true", b"false", b"yes", b"no"].contains(&value);
    let is_shown = is_word || is_path(value) && (kind == Kind::SecretOrPath || sign == b':' && blanks == 0 && mark.is_none());
    (!is_shown).then_some((from, from + value.len()))
}

/// Where the password is in a URL whose authority begins at `at` (RFC 3986, section 3.2.1).
fn login_in_url(text: &[u8], at: usize, without_login: &mut usize) -> Option<(usize, usize)> {
    let rest = text.get(at..)?;
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"'\"".contains(byte);
    let length = rest.iter().position(|byte| is_end(byte) || b"/?#".contains(byte)).unwrap_or(rest.len());
    let authority = rest.get(..length)?;
    let colon = authority.iter().position(|byte| *byte == b':')?;
    if let Some(login) = authority.iter().rposition(|byte| *byte == b'@') {
        return (colon + 1 < login).then_some((at + colon + 1, at + login));
    }
    // A password with a slash that ought to be escaped; but a number is a port.
    let behind = authority.get(colon + 1..)?;
    if behind.iter().all(u8::is_ascii_digit) || authority.starts_with(b"[") || at < *without_login {
        return None;
    }
    let word = rest.get(..rest.iter().position(is_end).unwrap_or(rest.len()))?;
    match word.iter().position(|byte| *byte == b'@') {
        Some(login) => Some((at + colon + 1, at + login)),
        None => {
            *without_login = at + word.len();
            None
        }
    }
}

/// How much is shown of a private key in PEM that begins here, and its length.
fn private_key(text: &[u8]) -> Option<(usize, usize)> {
    const KEY: &[u8] = b"PRIVATE KEY-----";
    let label = text.get(..text.len().min(64)).filter(|_| text.starts_with(b"-----BEGIN "))?;
    let shown = label.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let key = text.get(shown..)?;
    let end = key.windows(8).position(|window| window == b"-----END").unwrap_or(key.len());
    Some((shown, shown + end))
}

/// Whether a word is a token by its shape.
fn is_token(word: &[u8]) -> bool {
    const PREFIXES: [(&[u8], usize); 19] = [
        (b"ghp_", 20),
        (b"gho_", 20),
        (b"ghu_", 20),
        (b"ghs_", 20),
        (b"ghr_", 20),
        (b"github_pat_", 30),
        (b"glpat-", 20),
        (b"xoxa-", 15),
        (b"xoxb-", 15),
        (b"xoxp-", 15),
        (b"xoxr-", 15),
        (b"xoxs-", 15),
        (b"xapp-", 15),
        (b"sk_live_", 16),
        (b"rk_live_", 16),
        (b"AIza", 39),
        (b"hvs.", 20),
        (b"npm_", 36),
        (b"dop_v1_", 40),
    ];
    if PREFIXES.iter().any(|(prefix, least)| word.starts_with(prefix) && word.len() >= *least) {
        return true;
    }
    // Access keys of AWS.
    if let Some(rest) = word.strip_prefix(b"AKIA").or_else(|| word.strip_prefix(b"ASIA")) {
        return rest.len() == 16 && rest.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    }
    // JSON Web Tokens (RFC 7519): two objects and a signature.
    let mut parts = word.split(|byte| *byte == b'.');
    let is_object = |part: Option<&[u8]>| part.is_some_and(|part| part.starts_with(b"eyJ") && part.len() >= 10);
    word.starts_with(b"eyJ") && is_object(parts.next()) && is_object(parts.next()) && parts.next().is_some()
}

/// The parts of a name in small letters: `-Dkey.storePassword` is `dkey`, `store`, `password`.
fn parts(name: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut before = b'-';
    for &byte in name {
        if byte.is_ascii_alphanumeric() {
            if !before.is_ascii_alphanumeric() || before.is_ascii_lowercase() && byte.is_ascii_uppercase() {
                parts.push(Vec::new());
            }
            parts.last_mut().into_iter().for_each(|part| part.push(byte.to_ascii_lowercase()));
        }
        before = byte;
    }
    parts
}

/// Whether something of this name is a secret: its last part says so.
fn kind(name: &[u8]) -> Option<Kind> {
    const ENDS: [&[u8]; 6] = [b"password", b"passwd", b"passphrase", b"secret", b"token", b"apikey"];
    const WHOLE: [&[u8]; 7] = [b"pass", b"dbpass", b"keypass", b"storepass", b"requirepass", b"masterauth", b"userpass"];
    const KEYS: [&[u8]; 9] =
        [b"api", b"access", b"secret", b"private", b"auth", b"signing", b"encryption", b"account", b"shared"];
    // Nothing here is shorter, and most names are not looked at any further.
    if name.len() < 3 {
        return None;
    }
    let parts = parts(name);
    let (last, rest) = parts.split_last()?;
    let before = rest.last().map(Vec::as_slice).unwrap_or_default();
    if ENDS.iter().any(|end| last.ends_with(end)) || WHOLE.contains(&last.as_slice()) {
        return Some(Kind::Secret);
    }
    // `SECRET_KEY_BASE`
    if parts.windows(2).any(|pair| matches!(pair, [secret, key] if secret == b"secret" && key == b"key")) {
        return Some(Kind::SecretOrPath);
    }
    match last.as_slice() {
        b"key" if KEYS.contains(&before) => Some(Kind::SecretOrPath),
        b"accesskey" | b"secretkey" | b"privatekey" | b"authkey" | b"credential" | b"credentials" => Some(Kind::SecretOrPath),
        // Curl takes a header right behind `-H`.
        last if last.ends_with(b"authorization") || last.ends_with(b"cookie") => Some(Kind::Header),
        last if last.ends_with(b"pwd") => Some(Kind::SecretOrPath),
        _ => None,
    }
}

/// Whether an option with the name of a secret only says how one is come by.
fn is_switch(option: &[u8]) -> bool {
    parts(option)
        .first()
        .is_some_and(|first| [&b"no"[..], b"ask", b"prompt", b"without", b"with", b"use"].contains(&first.as_slice()))
}

#[cfg(test)]
mod tests;
