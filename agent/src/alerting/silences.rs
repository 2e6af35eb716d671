//! All silences of the host, and which of them keeps an alert from the channels.
//!
//! Pure: time is handed in. Where those of the command line are kept is not known here.

use crate::model::{Alert, Silence, Timestamp};

/// The silences of the configuration and of the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Silences(Vec<Silence>);

impl Silences {
    /// These silences; where several are active for an alert, the first of them counts.
    pub fn new(silences: impl IntoIterator<Item = Silence>) -> Self {
        Self(silences.into_iter().collect())
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Silence> {
        self.0.iter()
    }

    /// The first silence that is active at this time and means the alert of this host.
    pub fn silencing(&self, alert: &Alert, hostname: &str, at: Timestamp) -> Option<&Silence> {
        // Matching first: it is cheaper than a calendar.
        self.0.iter().find(|silence| silence.matches(alert, hostname) && silence.is_active(at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Evidence, Labels, Severity, Status, Window};

    fn alert() -> Alert {
        Alert {
            id: "0".into(),
            delivery: "0-1".into(),
            at: Timestamp::from_secs(1000),
            status: Status::Firing,
            severity: Severity::Warn,
            metric: "disk_usage_percent".into(),
            value: 95.0,
            threshold: Some(90.0),
            message: "disk is full".into(),
            labels: Labels::new().with("mount", "/backup/a").with("hostname", "a lie"),
            duration: Duration::ZERO,
            count: 1,
            evidence: Evidence::new(),
        }
    }

    fn silence(id: &str, matchers: &[&str], starts: i64, ends: i64) -> Silence {
        Silence {
            id: id.into(),
            matchers: Silence::parse_matchers(matchers).unwrap(),
            window: Window::once(Timestamp::from_secs(starts), Timestamp::from_secs(ends)).unwrap(),
            comment: String::new(),
            created_by: "config".into(),
        }
    }

    #[test]
    fn all_matchers_must_match() {
        for (matchers, expected) in [
            (&["metric=disk_usage_percent"][..], true),
            (&["metric=disk_usage_percent", "mount=~/backup/.*"], true),
            (&["metric=disk_usage_percent", "mount=~/backup"], false),
            (&["severity=~info|warn"], true),
            (&["severity!=warn", "metric=~.+"], false),
            (&["hostname=web-01"], true),
            (&["hostname=a lie"], false),
            (&["hostname=web-01", "device="], true),
            (&["hostname=web-01", "device!="], false),
            (&["hostname=web-01", "mount="], false),
        ] {
            assert_eq!(silence("a", matchers, 0, 1).matches(&alert(), "web-01"), expected, "{matchers:?}");
        }
    }

    #[test]
    fn one_that_would_silence_everything_is_refused() {
        for matchers in [&[][..], &["device="], &["device=~.*"], &["device!=sda", "mount!~/x"]] {
            let (index, reason) = Silence::parse_matchers(matchers).unwrap_err();
            assert!(index.is_none() && reason.contains("every alert"), "{matchers:?}: {reason}");
        }
        assert_eq!(Silence::parse_matchers(&["metric=a", "x"]).unwrap_err().0, Some(1));
        assert!(Silence::parse_matchers(&["mount=~.+"]).is_ok());
    }

    #[test]
    fn the_first_that_is_active_silences() {
        let silences = Silences::new([
            silence("other", &["metric=x"], 0, 5000),
            silence("early", &["mount=~.+"], 0, 1000),
            silence("a", &["mount=~.+"], 1000, 2000),
            silence("b", &["mount=~.+"], 1500, 3000),
        ]);
        let silencing = |at| silences.silencing(&alert(), "web-01", Timestamp::from_secs(at)).map(|silence| silence.id.as_str());
        assert_eq!([500, 1000, 1600, 2000, 3000].map(silencing), [Some("early"), Some("a"), Some("a"), Some("b"), None]);
    }

    #[test]
    fn what_is_stored_reads_back() {
        let silence = silence("a1", &["mount=~/backup.*", "severity!=emergency"], 0, 3600);
        let json = serde_json::to_string(&silence).unwrap();
        assert_eq!(
            json,
            r#"{"id":"a1","matchers":["mount=~\"/backup.*\"","severity!=\"emergency\""],"window":{"starts":"1970-01-01T00:00:00Z","ends":"1970-01-01T01:00:00Z"},"comment":"","created_by":"config"}"#
        );
        assert_eq!(serde_json::from_str::<Silence>(&json).unwrap(), silence);
        let all = json.replace(r#""mount=~\"/backup.*\"","#, "");
        assert!(serde_json::from_str::<Silence>(&all).unwrap_err().to_string().contains("every alert"), "{all}");
        assert_eq!(silence.ends_after(Timestamp::from_secs(10)), Some(Timestamp::from_secs(3600)));
        assert!(silence.is_over(Timestamp::from_secs(3600)) && !silence.is_active(Timestamp::from_secs(3600)));
    }
}
