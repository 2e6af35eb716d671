//! Mail: one message for each incident or group, as text and as HTML; what follows is an answer to it.
//!
//! No connection is kept between messages: an alert is rare, and a mail server closes what is idle. How a message looks is in
//! `page`, how it is put together in `compose`, and how a mail server is spoken to in `smtp`.

mod compose;
mod page;
mod smtp;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use lettre::Address;
use lettre::address::AddressError;
use lettre::message::Mailbox;

use super::http::Clients;
use super::template::{Escape, Template};
use super::{Accepted, BuildError, Channel, Notifier, Place, RETRY, Rendered, Row, SendError, Sender, Sending, Updates};
use crate::config;
use crate::model::Message;

pub(super) const ROW: Row = Row {
    name: "email",
    summary: "mail through an SMTP server",
    build: |config, clients| {
        let Some(email) = &config.alerting.email else { return Ok(None) };
        let template = Template::of(config, ROW.name);
        let notifier = Email::new(email, clients, template).map_err(|reason| BuildError { channel: ROW.name, reason })?;
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(notifier),
            severities: email.severities,
            retry: RETRY,
            updates: Updates::Answer,
            refresh: None,
            is_screen: false,
        }))
    },
};

struct Email {
    server: smtp::Server,
    from: Mailbox,
    to: Vec<Mailbox>,
    subject_prefix: String,
    template: Option<Template>,
    /// Recipients that the server refused last time, with its words: said once.
    refused: Mutex<BTreeMap<String, String>>,
}

impl Email {
    fn new(email: &config::Email, clients: &Clients, template: Option<Template>) -> Result<Self, String> {
        let mailbox = |key: &str, text: &str| {
            mailbox(text).map_err(|error| format!("alerting.email.{key} has {text:?}, which is no mail address: {error}"))
        };
        Ok(Self {
            server: smtp::Server::new(email, clients)?,
            from: mailbox("from", &email.from)?,
            to: email.to.iter().map(|text| mailbox("to", text)).collect::<Result<_, _>>()?,
            subject_prefix: email.subject_prefix.clone(),
            template,
            refused: Mutex::default(),
        })
    }

    async fn deliver(&self, message: &Rendered) -> Result<Accepted, SendError> {
        let Some(body) = message.parts.first().filter(|body| !body.is_empty()) else {
            return Err(SendError::Permanent { reason: "the message could not be put together; report this as a defect".into() });
        };
        let to: Vec<Address> = self.to.iter().map(|mailbox| mailbox.email.clone()).collect();
        let delivered = self.server.deliver(&self.from.email, &to, body).await?;
        self.tell(&delivered.refused);
        let thread = message.parts.get(1).filter(|_| message.place == Place::New);
        let reference = thread.map(|thread| String::from_utf8_lossy(thread).into_owned());
        Ok(Accepted { reference, answer: delivered.to_string() })
    }

    /// Logs the recipients that were refused, when they are others than last time.
    fn tell(&self, refused: &BTreeMap<String, String>) {
        let mut before = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *before != *refused {
            for (recipient, answer) in refused {
                tracing::warn!(
                    channel = ROW.name,
                    recipient,
                    answer,
                    "the mail server refuses a recipient; the others have the message; check alerting.email.to"
                );
            }
            before.clone_from(refused);
        }
    }
}

impl Notifier for Email {
    /// The message; and behind it, where later ones answer it, what they have to know of it, which is not sent.
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let templated = self.template.as_ref().and_then(|template| template.render(message, sender, Escape::Text(page::markup)));
        match compose::compose(message, sender, &self.from, &self.to, &self.subject_prefix, templated.as_deref()) {
            Some(mail) => {
                let thread = (message.place == Place::New).then(|| mail.thread.to_string().into());
                let parts = std::iter::once(mail.message.into()).chain(thread).collect();
                Rendered { parts, ..Rendered::of(message, "") }
            }
            None => Rendered::of(message, ""),
        }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.deliver(message))
    }
}

/// `local@domain` or `Name <local@domain>`; the name may be in quotes, and needs none.
fn mailbox(text: &str) -> Result<Mailbox, AddressError> {
    let named = text.trim().strip_suffix('>').and_then(|text| text.rsplit_once('<'));
    let (name, address) = named.unwrap_or(("", text));
    let name = name.trim().trim_matches('"');
    Ok(Mailbox::new((!name.is_empty()).then(|| name.to_owned()), address.trim().parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_are_written_as_headers_want_them() {
        for (text, written) in [
            (" ops@example.org", "ops@example.org"),
            ("Ops <ops@example.org>", "Ops <ops@example.org>"),
            ("Ops, Inc. <ops@example.org>", "\"Ops, Inc.\" <ops@example.org>"),
            ("\"Ops, Inc.\" <ops@example.org>", "\"Ops, Inc.\" <ops@example.org>"),
        ] {
            assert_eq!(mailbox(text).unwrap().to_string(), written, "{text}");
        }
        assert!(mailbox("Ops <ops@@example.org>").is_err());
    }
}
