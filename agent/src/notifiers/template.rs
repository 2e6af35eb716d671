//! Messages as the configuration words them, in place of a channel's main text.
//!
//! What stands in the template is the channel's own markup, written by whoever configures it. What is put in comes from the host, so it is
//! escaped as the channel needs it, and nothing in it acts as markup. A template that fails costs only itself: the channel then says what
//! it says without one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::Environment;
use minijinja::value::{Value, ValueKind};
use serde_json::Value as Json;

use super::Sender;
use super::card::{remarks, sentence, time};
use super::text::{clip, duration, escape, number, quantity, zoned};
use crate::config::Config;
use crate::config::templates::{environment, fill_in, json, told};
use crate::model::{Alert, Message};

/// Longest value of a label or of evidence where the text is for people, in bytes.
const VALUE_MAX: usize = 4096;

/// How a channel writes what is put in.
#[derive(Clone, Copy)]
pub(super) enum Escape {
    /// As text, of which this makes the channel's markup.
    Text(fn(&str) -> String),
    /// Each value as JSON, with its quotes.
    Json,
}

/// The template of one channel.
pub(super) struct Template {
    channel: &'static str,
    text: String,
    /// Whether it goes through the alerts of a message by itself.
    names_alerts: bool,
    /// Whether it says the remarks by itself.
    pub(super) names_remarks: bool,
    has_failed: AtomicBool,
}

impl Template {
    /// The template of a channel, or else that of all; `None` where there is neither. The body of a webhook is data, of which the template
    /// of all channels knows nothing.
    pub(super) fn of(config: &Config, channel: &'static str) -> Option<Self> {
        let templates = &config.alerting.templates;
        let default = templates.default.as_ref().filter(|_| channel != "webhook");
        let text = templates.by_channel.get(channel).or(default)?.clone();
        let names = environment(Value::to_string).template_from_str(&text).ok()?.undeclared_variables(false);
        let [names_alerts, names_remarks] = ["alerts", "remarks"].map(|name| names.contains(name));
        Some(Self { channel, text, names_alerts, names_remarks, has_failed: AtomicBool::new(false) })
    }

    /// The message in the words of the template; `None` where it fails, which the log says once. A template that does not go through `alerts` by
    /// itself is filled in for each of them, one below the other, with the remarks below it.
    pub(super) fn render(&self, message: &Message, sender: &Sender, escape: Escape) -> Option<String> {
        let mut texts = self.render_each(message, sender, escape)?;
        if !self.names_remarks {
            texts.extend(remarks(message).into_iter().map(|remark| escape.write(&Value::from(remark))));
        }
        Some(texts.join("\n"))
    }

    /// The words for one alert, in plain text.
    pub(super) fn plain(&self, alert: &Arc<Alert>, sender: &Sender) -> Option<String> {
        self.render(&Message::of(Arc::clone(alert)), sender, Escape::Text(str::to_owned))
    }

    /// As [`render`](Self::render), each alert by itself and without the remarks: for what cannot be put below each other.
    pub(super) fn render_each(&self, message: &Message, sender: &Sender, escape: Escape) -> Option<Vec<String>> {
        let environment = environment(move |value| escape.write(value));
        let texts: Result<Vec<_>, _> = if self.names_alerts {
            let lead = message.lead()?;
            self.fill_in(&environment, lead, message, sender, escape).map(|text| vec![text])
        } else {
            message.alerts().map(|alert| self.fill_in(&environment, alert, message, sender, escape)).collect()
        };
        texts.map_err(|error| self.failed(&error)).ok()
    }

    fn fill_in(
        &self,
        environment: &Environment<'_>,
        alert: &Alert,
        message: &Message,
        sender: &Sender,
        escape: Escape,
    ) -> Result<String, String> {
        let mut values = of_alert(alert, sender, escape);
        if self.names_alerts {
            let alerts: Vec<_> = message.alerts().map(|alert| Value::from(of_alert(alert, sender, escape))).collect();
            values.insert("alerts", alerts.into());
            values.insert("delivery", message.delivery.as_str().into());
        }
        values.insert("remarks", remarks(message).into());
        let text = fill_in(environment, &self.text, values.into()).map_err(|error| told(&error))?;
        if text.trim().is_empty() {
            return Err("makes no text".into());
        }
        if escape.is_data() && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            return Err("does not make JSON".into());
        }
        Ok(text)
    }

    fn failed(&self, reason: &str) {
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            let channel = self.channel;
            tracing::warn!(
                "the template of the channel {channel} failed, and its built-in text was sent: {reason}; see [alerting.templates]"
            );
        }
    }
}

/// What a template may name of an alert: the names that the configuration knows.
fn of_alert(alert: &Alert, sender: &Sender, escape: Escape) -> BTreeMap<&'static str, Value> {
    let is_data = escape.is_data();
    let line = |text: &str| if is_data { Value::from(text) } else { Value::from(inert(text)) };
    let timestamp = || zoned(alert.at, &sender.time_zone).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string();
    let trend = alert.evidence.get("trend").and_then(Json::as_str).unwrap_or_default();
    let labels: BTreeMap<_, _> = alert.labels.iter().map(|(name, value)| (name.to_owned(), line(value))).collect();
    let evidence: BTreeMap<_, _> = alert.evidence.iter().map(|(name, value)| (name.clone(), of_json(value, is_data))).collect();
    BTreeMap::from([
        ("address", line(&sender.address)),
        ("count", alert.count.into()),
        ("delivery", line(&alert.delivery)),
        ("duration", duration(alert.duration).into()),
        ("duration_secs", alert.duration.as_secs().into()),
        ("evidence", evidence.into()),
        ("hostname", line(&sender.hostname)),
        ("id", line(&alert.id)),
        ("labels", labels.into()),
        ("message", if is_data { alert.message.as_str().into() } else { sentence(alert).into() }),
        ("metric", line(&alert.metric)),
        ("severity", alert.severity.as_str().into()),
        ("status", alert.status.as_str().into()),
        ("threshold", alert.threshold.into()),
        ("threshold_with_unit", alert.threshold.map(|threshold| quantity(&alert.metric, threshold)).into()),
        ("timestamp", if is_data { timestamp() } else { time(alert, sender) }.into()),
        ("trend", line(trend)),
        ("value", alert.value.into()),
        ("value_with_unit", quantity(&alert.metric, alert.value).into()),
    ])
}

/// Text of one line in which nothing acts on a terminal.
fn inert(text: &str) -> String {
    escape(&clip(text, VALUE_MAX)).into_owned()
}

fn of_json(value: &Json, is_data: bool) -> Value {
    match value {
        Json::Null => ().into(),
        Json::Bool(truth) => (*truth).into(),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().into(),
        },
        Json::String(text) if is_data => text.as_str().into(),
        // A stack has lines, and is to keep them.
        Json::String(text) => clip(text, VALUE_MAX).lines().map(escape).collect::<Vec<_>>().join("\n").into(),
        Json::Array(items) => items.iter().map(|item| of_json(item, is_data)).collect(),
        Json::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), of_json(value, is_data))).collect::<BTreeMap<_, _>>().into()
        }
    }
}

impl Escape {
    fn write(self, value: &Value) -> String {
        match self {
            Self::Text(escape) => escape(&text(value)),
            Self::Json => json(value),
        }
    }

    fn is_data(self) -> bool {
        matches!(self, Self::Json)
    }
}

/// A value as the built-in texts write it.
fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => String::new(),
        ValueKind::Bool => value.is_true().to_string(),
        ValueKind::Number if !value.is_integer() => f64::try_from(value.clone()).map_or_else(|_| value.to_string(), number),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => json(value),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
