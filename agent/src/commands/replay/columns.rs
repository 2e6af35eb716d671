//! Comma-separated values (RFC 4180) of one series: which column is the time and which the value.

/// Names of the columns, in lower case.
const TIME: [&str; 6] = ["timestamp", "timestamps", "time", "date", "datetime", "ts"];
const VALUE: [&str; 2] = ["value", "values"];

/// Where in a row time and value stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    time: usize,
    value: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self { time: 0, value: 1 }
    }
}

/// One row.
pub(super) struct Row<'a> {
    /// As it stands there.
    pub(super) time: &'a str,
    /// The value, not a number where there is none; what is wrong with it else.
    pub(super) value: Result<f64, String>,
}

impl Columns {
    /// The columns that a header names; `None` where the line is no header but a row.
    pub(super) fn of_header(line: &str) -> Option<Self> {
        let names: Vec<String> = fields(line).map(str::to_lowercase).collect();
        let plain = Self::default();
        let find = |wanted: &[&str]| names.iter().position(|name| wanted.contains(&name.as_str()));
        let (time, value) = (find(&TIME), find(&VALUE));
        let row = plain.row(line);
        let looks_like_row = super::time::parse(row.time).is_some() || (row.value.is_ok() && !row.time.is_empty());
        if time.is_none() && value.is_none() && (looks_like_row || names.len() < 2) {
            return None;
        }
        let time = time.unwrap_or(plain.time);
        Some(Self { time, value: value.unwrap_or(if time == plain.value { 0 } else { plain.value }) })
    }

    pub(super) fn row<'a>(&self, line: &'a str) -> Row<'a> {
        let field = |column: usize| fields(line).nth(column);
        let value = match field(self.value) {
            None => Err(format!("it has no column {}", self.value + 1)),
            Some(text) => number(text).ok_or_else(|| format!("{text:?} is no number")),
        };
        Row { time: field(self.time).unwrap_or_default(), value }
    }
}

/// The fields of a line; times and numbers contain neither commas nor quotes.
fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|field| field.trim().trim_matches('"').trim())
}

/// A number; not a number where it is empty or says so.
fn number(text: &str) -> Option<f64> {
    const NONE: [&str; 5] = ["", "null", "none", "na", "n/a"];
    if NONE.iter().any(|none| text.eq_ignore_ascii_case(none)) {
        return Some(f64::NAN);
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_the_columns() {
        let columns = |line| Columns::of_header(line).map(|columns| (columns.time, columns.value));
        assert_eq!(columns("timestamp,value"), Some((0, 1)));
        assert_eq!(columns("value,timestamp,is_anomaly"), Some((1, 0)));
        assert_eq!(columns("\"Timestamp\", \"x\""), Some((0, 1)));
        assert_eq!(columns("when,what"), Some((0, 1)));
        assert_eq!(columns("2014-04-01 00:00:00,1"), None);
        assert_eq!(columns("1,2,0"), None);
        assert_eq!(columns("1,"), None);
        assert_eq!(columns("gar,1"), None);
        assert_eq!(columns("garbage"), None);
    }

    #[test]
    fn rows_have_a_time_and_a_value() {
        let row = |line| {
            let row = Columns::default().row(line);
            (row.time.to_owned(), row.value)
        };
        assert_eq!(row("1,2.5"), ("1".into(), Ok(2.5)));
        assert_eq!(row("\"1\" , \"-3e2\",x"), ("1".into(), Ok(-300.0)));
        assert!(row("1,").1.is_ok_and(f64::is_nan) && row("1,NaN").1.is_ok_and(f64::is_nan));
        assert!(row("1,x").1.is_err() && row("1").1.is_err());
    }
}
