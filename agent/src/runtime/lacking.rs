//! What a configuration asks for by a key that is off by default, and this version does not have.

use crate::config::Config;
use crate::notifiers;

/// A sentence about each, in the order of the configuration file.
pub fn lacking(config: &Config) -> Vec<String> {
    let mut lacking = Vec::new();
    let mut note = |asked: bool, sentence: &str| {
        if asked {
            lacking.push(sentence.to_owned());
        }
    };
    let patterns = !config.log_analyzer.custom_patterns.is_empty();
    note(patterns, "log_analyzer.custom_patterns are set, but this version has its built-in patterns only");
    let templates = &config.alerting.templates;
    let templates = templates.default.is_some() || !templates.by_channel.is_empty();
    note(templates, "alerting.templates are set, but this version has its built-in text only");
    let channels = notifiers::unavailable(config).into_iter();
    lacking.extend(channels.map(|name| format!("alerting.{name} is enabled, but this version has no such channel yet")));
    lacking
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn defaults_ask_for_nothing_that_is_not_there() {
        assert_eq!(lacking(&Config::default()), [""; 0]);
    }

    #[test]
    fn each_wish_is_answered() {
        let text = "[log_analyzer]\ncustom_patterns = [{ pattern = \"x\", severity = \"warn\", name = \"x\" }]\n\
                    [alerting.templates]\nwebhook = \"x\"\n[alerting.slack]\nenabled = true\nwebhook_url = \"https://x\"\n";
        let config = crate::config::parse(text, Path::new("t.toml"), &|_| None).unwrap();
        let lacking = lacking(&config);
        let keys = ["log_analyzer.custom_patterns ", "alerting.templates ", "alerting.slack "];
        assert_eq!(lacking.len(), keys.len());
        assert!(lacking.iter().zip(keys).all(|(sentence, key)| sentence.starts_with(key)), "{lacking:?}");
    }
}
