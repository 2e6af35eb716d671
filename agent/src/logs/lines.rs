//! Cuts a stream of bytes into lines of bounded length.

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its bytes without the terminator, as many as are kept.
    pub bytes: &'a [u8],
    /// Whether there were more.
    pub is_cut: bool,
    /// Bytes of the stream that it took, with its terminator.
    pub len: u64,
}

impl Line<'_> {
    /// The text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes)
    }
}

/// What has come of a line whose end has not.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    partial: Vec<u8>,
    /// Bytes of the line so far, kept or not.
    len: u64,
}

impl Lines {
    /// Keeps up to `limit` bytes of a line.
    pub fn new(limit: usize) -> Self {
        Self { limit, partial: Vec::new(), len: 0 }
    }

    /// Takes what comes next, and hands each line that ends in it to `each`, as long as that says so.
    pub fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>) -> bool) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            let len = self.len + line.len() as u64 + 1;
            let goes_on = if self.len == 0 {
                // The common case takes no copy.
                each(cut(line, self.limit, len))
            } else {
                self.keep(line);
                each(cut(&self.partial, self.limit, len))
            };
            self.clear();
            if !goes_on {
                return;
            }
        }
        self.keep(bytes);
    }

    /// The line whose end never comes, if there is one.
    pub fn rest(&mut self, each: impl FnOnce(Line<'_>)) {
        if self.len > 0 {
            each(cut(&self.partial, self.limit, self.len));
        }
        self.clear();
    }

    /// Forgets a line that has begun.
    pub fn clear(&mut self) {
        self.partial.clear();
        self.len = 0;
    }

    fn keep(&mut self, bytes: &[u8]) {
        // One more byte than is kept tells that there were more.
        let room = (self.limit + 1).saturating_sub(self.partial.len());
        self.partial.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        self.len += bytes.len() as u64;
    }
}

fn cut(line: &[u8], limit: usize, len: u64) -> Line<'_> {
    let kept = line.get(..limit).unwrap_or(line);
    let is_cut = kept.len() < line.len();
    Line { bytes: if is_cut { kept } else { kept.strip_suffix(b"\r").unwrap_or(kept) }, is_cut, len }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines, bytes: &[u8]) -> Vec<(String, bool, u64)> {
        let mut all = Vec::new();
        lines.take(bytes, |line| {
            all.push((line.text().into_owned(), line.is_cut, line.len));
            true
        });
        all
    }

    fn line(text: &str, is_cut: bool, len: u64) -> (String, bool, u64) {
        (text.into(), is_cut, len)
    }

    #[test]
    fn a_line_is_whole_however_it_arrives() {
        let stream = b"one\r\n\ntwo \xff\nlonger than eight\nlast";
        let expected = [line("one", false, 5), line("", false, 1), line("two \u{fffd}", false, 6), line("longer t", true, 18)];
        for size in 1..stream.len() {
            let mut lines = Lines::new(8);
            let found: Vec<_> = stream.chunks(size).flat_map(|chunk| all(&mut lines, chunk)).collect();
            assert_eq!(found, expected, "in pieces of {size}");
            let mut last = None;
            lines.rest(|rest| last = Some((rest.text().into_owned(), rest.len)));
            assert_eq!(last, Some(("last".into(), 4)));
            lines.rest(|_| panic!("nothing is left"));
        }
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_its_limit() {
        let mut lines = Lines::new(8);
        for _ in 0..1000 {
            lines.take(&[b'x'; 4096], |_| true);
        }
        assert!(lines.partial.capacity() < 64);
        assert_eq!(all(&mut lines, b"\n"), [line("xxxxxxxx", true, 4_096_001)]);
    }
}
