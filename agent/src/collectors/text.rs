//! The few shapes that texts of procfs and sysfs are made of: fields between blanks, and numbers.

/// The fields of a line, which stand between blanks and tabs.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// The fields of `line`.
pub fn fields(line: &[u8]) -> Fields<'_> {
    Fields(line)
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0.trim_ascii_start();
        if text.is_empty() {
            return None;
        }
        let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
        let (field, rest) = text.split_at_checked(end)?;
        self.0 = rest;
        Some(field)
    }
}

impl Fields<'_> {
    /// The next field as a number.
    pub fn number(&mut self) -> Option<u64> {
        self.next().and_then(number)
    }

    /// The next `N` fields as numbers.
    pub fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for slot in &mut numbers {
            *slot = self.number()?;
        }
        Some(numbers)
    }
}

/// A decimal number without sign, which is all of `field`.
pub fn number(field: &[u8]) -> Option<u64> {
    if field.is_empty() {
        return None;
    }
    field.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A hexadecimal number of up to 32 bits without sign or prefix, which is all of `field`.
pub fn hexadecimal(field: &[u8]) -> Option<u32> {
    let digits = !field.is_empty() && field.len() <= 8 && field.iter().all(u8::is_ascii_hexdigit);
    digits.then(|| u32::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok())?
}

/// A finite decimal number, which is all of `field`.
pub fn decimal(field: &[u8]) -> Option<f64> {
    std::str::from_utf8(field).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A text for people and labels; bytes that are not UTF-8 are replaced.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `parse` on `text`, on each prefix of it, and on a thousand garbled versions of it: tests that none of them panics.
#[cfg(test)]
pub fn mangle(text: &[u8], mut parse: impl FnMut(&[u8])) {
    for cut in 0..=text.len() {
        parse(text.get(..cut).unwrap_or_default());
    }
    // xorshift64: the same garbage in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 1).unwrap_or_default()
    };
    const SPICE: [u8; 12] = [b'0', b'9', b'-', b' ', b'\n', b'(', b')', b':', b'\\', 0, 0x80, 0xff];
    for _ in 0..1000 {
        let mut garbled = text.to_vec();
        for _ in 0..=random() % 8 {
            let at = random() % garbled.len().max(1);
            let spice = SPICE.get(random() % SPICE.len()).copied().unwrap_or_default();
            match random() % 4 {
                0 => garbled.insert(at, spice),
                1 if at < garbled.len() => drop(garbled.remove(at)),
                2 => garbled.truncate(at.max(1)),
                _ => garbled.get_mut(at).map_or((), |byte| *byte = spice),
            }
        }
        parse(&garbled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_fields() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"18446744073709551616"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(b"-1"), None);
        assert_eq!(number(b"12kB"), None);
        assert_eq!(hexadecimal(b"00001cC7"), Some(0x1cc7));
        assert_eq!([hexadecimal(b""), hexadecimal(b"+1"), hexadecimal(b"0x1"), hexadecimal(b"100000000")], [None; 4]);
        assert_eq!(decimal(b"1.50"), Some(1.5));
        assert_eq!(decimal(b"inf"), None);
    }

    #[test]
    fn fields_stand_between_any_blanks() {
        let mut line = fields(b"  a\t 12   34 ");
        assert_eq!(line.next(), Some(&b"a"[..]));
        assert_eq!(line.clone().numbers::<3>(), None);
        assert_eq!(line.numbers(), Some([12, 34]));
        assert_eq!(line.next(), None);
    }
}
