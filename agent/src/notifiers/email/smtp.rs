//! A mail server: one connection for one message, and what its replies mean.
//!
//! Encryption is what the configuration says, never what the server offers. A password leaves this process over TLS, or to this very host.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::SendError;
use super::super::dial;
use super::super::http::{Clients, causes};
use super::super::text::{clip, escape};
use crate::config::{self, Secret, SmtpEncryption};

/// Limit of each step; RFC 5321, section 4.5.3.2, has a queueing server wait for minutes, which an alert can't.
const STEP: Duration = Duration::from_secs(20);
/// Limit from the end of the message to its reply: a server may look for viruses first.
const ACCEPT: Duration = Duration::from_secs(60);
/// Limit of it all.
const TOTAL: Duration = Duration::from_secs(180);
/// Limit of a farewell, which changes nothing.
const QUIT: Duration = Duration::from_secs(2);
/// Most of a reply that is shown, in bytes.
const REPLY_MAX: usize = 300;

/// Where messages are given to.
pub(super) struct Server {
    host: String,
    port: u16,
    encryption: SmtpEncryption,
    /// `None` for plain text.
    tls: Option<TlsParameters>,
    login: Option<(String, Secret)>,
    /// `mail.example.org:587`
    name: String,
}

/// What became of a message that was accepted.
pub(super) struct Delivered {
    /// The server's words.
    reply: String,
    /// Recipients that it did not take, with its words.
    pub(super) refused: BTreeMap<String, String>,
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reply)?;
        for (recipient, answer) in &self.refused {
            write!(f, "; not for {recipient}: {answer}")?;
        }
        Ok(())
    }
}

impl Server {
    pub(super) fn new(email: &config::Email, clients: &Clients) -> Result<Self, String> {
        let config::Email { smtp_host: host, smtp_port: port, encryption, .. } = email;
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let tls = match encryption {
            SmtpEncryption::None => None,
            SmtpEncryption::StartTls | SmtpEncryption::Implicit => {
                Some(parameters(host, clients).map_err(|reason| format!("{name}: {reason}"))?)
            }
        };
        let login = email.username.clone().zip(email.password.clone());
        Ok(Self { host: host.clone(), port: *port, encryption: *encryption, tls, login, name })
    }

    /// Gives a message to the server, once.
    pub(super) async fn deliver(&self, from: &Address, to: &[Address], message: &[u8]) -> Result<Delivered, SendError> {
        let Ok(delivered) = timeout(TOTAL, self.session(from, to, message)).await else {
            return Err(self.late("take the message", TOTAL));
        };
        delivered
    }

    async fn session(&self, from: &Address, to: &[Address], message: &[u8]) -> Result<Delivered, SendError> {
        let mut connection = self.connect().await?;
        let delivered = self.dialogue(&mut connection, from, to, message).await;
        let _ = timeout(QUIT, connection.quit()).await;
        delivered
    }

    async fn dialogue(
        &self,
        connection: &mut AsyncSmtpConnection,
        from: &Address,
        to: &[Address],
        message: &[u8],
    ) -> Result<Delivered, SendError> {
        let Self { name, .. } = self;
        self.log_in(connection).await?;
        let is_ascii = std::iter::once(from).chain(to).all(|address| address.to_string().is_ascii());
        if !is_ascii && !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            let reason = format!("{name} takes no addresses beyond ASCII (SMTPUTF8); write such in alerting.email.from and to");
            return Err(SendError::Permanent { reason });
        }
        let parameters = if is_ascii { Vec::new() } else { vec![MailParameter::SmtpUtfEight] };
        self.step("MAIL", STEP, connection.command(Mail::new(Some(from.clone()), parameters))).await?;
        let (mut refused, mut worst, mut taken) = (BTreeMap::new(), None, 0_usize);
        for address in to {
            let answered = timeout(STEP, connection.command(Rcpt::new(address.clone(), Vec::new()))).await;
            match answered.map_err(|_| self.late("answer RCPT", STEP))? {
                Ok(_) => taken += 1,
                Err(error) if error.status().is_some() => {
                    refused.insert(address.to_string(), reply(&error));
                    // One that may be taken later is worth another attempt for all.
                    if worst.is_none() || error.is_transient() {
                        worst = Some(error);
                    }
                }
                Err(error) => return Err(self.judge("RCPT", &error)),
            }
        }
        if let (0, Some(error)) = (taken, worst) {
            return Err(self.judge("RCPT", &error));
        }
        self.step("DATA", STEP, connection.command(Data)).await?;
        let response = self.step("the message", ACCEPT, connection.message(message)).await?;
        let code = response.code();
        let words = response.message().collect::<Vec<_>>().join(" ");
        Ok(Delivered { reply: format!("{code} {}", escape(&clip(&words, REPLY_MAX))), refused })
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let unreachable = |error: io::Error| self.unreachable(&error);
        let addresses = dial::resolve(&self.host, self.port).await.map_err(unreachable)?;
        match (self.encryption, &self.tls) {
            (SmtpEncryption::StartTls, Some(tls)) => {
                let (mut connection, hello) = self.greet(&addresses).await?;
                if !connection.can_starttls() {
                    return Err(SendError::Retry {
                        reason: format!(
                            "{} offers no STARTTLS, and nothing is sent in the clear; set alerting.email.smtp_tls_mode = \"implicit\" \
                             with that port of the server, or smtp_tls = false where nobody else can listen",
                            self.name
                        ),
                        after: None,
                    });
                }
                self.step("STARTTLS", STEP, connection.starttls(tls.clone(), &hello)).await?;
                Ok(connection)
            }
            (SmtpEncryption::Implicit, Some(tls)) => {
                let mut last = None;
                for address in addresses {
                    let hello = hello(address);
                    let opening = AsyncSmtpConnection::connect_tokio1(address, Some(STEP), &hello, Some(tls.clone()), None);
                    match self.step("the greeting over TLS", STEP, opening).await {
                        Ok(connection) => return Ok(connection),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| self.unreachable(&io::ErrorKind::NotFound.into())))
            }
            _ => Ok(self.greet(&addresses).await?.0),
        }
    }

    /// A connection in plain text, after the greetings.
    async fn greet(&self, addresses: &[SocketAddr]) -> Result<(AsyncSmtpConnection, ClientId), SendError> {
        let stream = dial::connect(addresses).await.map_err(|error| self.unreachable(&error))?;
        let peer = stream.peer_addr().map_err(|error| self.unreachable(&error))?;
        if self.encryption == SmtpEncryption::None && self.login.is_some() && !peer.ip().is_loopback() {
            return Err(SendError::Permanent {
                reason: format!(
                    "{} is the address {}, and the password is sent in the clear to this host alone; set alerting.email.smtp_tls = true",
                    self.name,
                    peer.ip()
                ),
            });
        }
        let hello = hello(peer);
        let stream = Box::new(ByLine { stream, buffer: Vec::new(), read: 0 });
        let connection = self.step("the greeting", STEP, AsyncSmtpConnection::connect_with_transport(stream, &hello)).await?;
        Ok((connection, hello))
    }

    async fn log_in(&self, connection: &mut AsyncSmtpConnection) -> Result<(), SendError> {
        let Some((username, password)) = &self.login else { return Ok(()) };
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        if connection.server_info().get_auth_mechanism(&mechanisms).is_none() {
            return Err(SendError::Permanent {
                reason: format!(
                    "{} offers no login by AUTH PLAIN or LOGIN here; leave username and password out of [alerting.email], or ask for its \
                     port for submission",
                    self.name
                ),
            });
        }
        let credentials = Credentials::new(username.clone(), password.reveal().to_owned());
        self.step("AUTH", STEP, connection.auth(&mechanisms, &credentials)).await?;
        Ok(())
    }

    async fn step<T>(&self, what: &str, limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, SendError> {
        match timeout(limit, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.judge(what, &error)),
            Err(_) => Err(self.late(&format!("answer {what}"), limit)),
        }
    }

    fn late(&self, what: &str, limit: Duration) -> SendError {
        let Self { name, port, .. } = self;
        let secs = limit.as_secs();
        let advice = match (self.encryption, port) {
            (SmtpEncryption::Implicit, 25 | 587) => "this port is usually for STARTTLS: set alerting.email.smtp_tls_mode",
            (SmtpEncryption::None | SmtpEncryption::StartTls, 465) => {
                "this port is usually for TLS from the first byte: set alerting.email.smtp_tls_mode = \"implicit\""
            }
            _ => "see whether the mail server is well, and whether its port is the right one for this encryption",
        };
        SendError::Retry { reason: format!("{name} did not {what} within {secs} s; {advice}"), after: None }
    }

    fn unreachable(&self, error: &io::Error) -> SendError {
        let reason = format!("cannot reach the mail server {}: {error}; see whether it is up and its name resolves", self.name);
        SendError::Retry { reason, after: None }
    }

    /// What an error means: replies 4yz may be others later, 5yz won't (RFC 5321, section 4.2.1); what else happens may pass.
    fn judge(&self, what: &str, error: &Error) -> SendError {
        let Self { name, .. } = self;
        if let Some(code) = error.status() {
            let answer = reply(error);
            if !error.is_permanent() {
                return SendError::Retry { reason: format!("{name} answered {what} with {answer}"), after: None };
            }
            let advice = match (u16::from(code), what) {
                (530, _) => "it wants a login: set username and password in [alerting.email]",
                (_, "AUTH") => "check username and password in [alerting.email]",
                (552, _) => "it takes no message of that size; raise its limit to 256 kB",
                (_, "RCPT") => "check the addresses in alerting.email.to",
                (_, "MAIL") => "check alerting.email.from: the server may let this login send from other addresses only",
                (_, "STARTTLS" | "the greeting" | "the greeting over TLS") => {
                    "see whether alerting.email.smtp_host is a mail server for this host"
                }
                _ => "see in the server's log why it refuses this message",
            };
            return SendError::Permanent { reason: format!("{name} answered {what} with {answer}; {advice}") };
        }
        let cause = causes(error).last().map_or_else(|| error.to_string(), ToString::to_string);
        let cause = escape(&clip(&cause, REPLY_MAX)).into_owned();
        let reason = if causes(error).any(|cause| cause.is::<rustls::Error>()) {
            format!(
                "no trusted TLS connection to {name}: {cause}; have its certificate authority in the system's store or in [alerting] ca_file, \
                 and the name of its certificate in alerting.email.smtp_host"
            )
        } else if error.is_response() {
            format!("{name} answered {what} with what is no SMTP: {cause}; check alerting.email.smtp_host and smtp_port")
        } else {
            format!("the connection to {name} failed at {what}: {cause}; see whether the mail server is well")
        };
        SendError::Retry { reason, after: None }
    }
}

/// Code and text of a refusal.
fn reply(error: &Error) -> String {
    let code = error.status().map(|code| code.to_string()).unwrap_or_default();
    let words = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{code} {}", escape(&clip(words.trim(), REPLY_MAX)))
}

/// Trust in the system's roots and in `[alerting] ca_file`, by the same verifier as for HTTPS.
fn parameters(host: &str, clients: &Clients) -> Result<TlsParameters, String> {
    let failed = |error: Error| {
        let cause = causes(&error).last().map_or_else(|| error.to_string(), ToString::to_string);
        format!("cannot make a TLS client: {cause}; install the package ca-certificates or set SSL_CERT_FILE")
    };
    let mut parameters = TlsParameters::builder(host.to_owned());
    if let Some(pem) = clients.authorities()? {
        parameters = parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(failed)?);
    }
    parameters.build_rustls().map_err(failed)
}

/// The address that this host has towards the server, as a literal, which is valid anywhere (RFC 5321, section 4.1.4).
fn hello(peer: SocketAddr) -> ClientId {
    let unspecified: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    // A datagram socket that is connected sends nothing; the kernel looks up the route.
    let local = std::net::UdpSocket::bind((unspecified, 0)).and_then(|socket| {
        socket.connect(peer)?;
        socket.local_addr()
    });
    match local.map(|local| local.ip()) {
        Ok(IpAddr::V4(address)) => ClientId::Ipv4(address),
        Ok(IpAddr::V6(address)) => ClientId::Ipv6(address),
        Err(_) => ClientId::default(),
    }
}

/// Hands out what was received line by line. So nothing that somebody put behind the reply to STARTTLS waits in a buffer above,
/// to be taken for a reply over TLS: the handshake gets it, and fails.
#[derive(Debug)]
struct ByLine {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer was handed out.
    read: usize,
}

impl AsyncRead for ByLine {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read >= this.buffer.len() {
            this.buffer.resize(16 * 1024, 0);
            let mut received = ReadBuf::new(&mut this.buffer);
            let polled = Pin::new(&mut this.stream).poll_read(context, &mut received);
            let length = received.filled().len();
            this.buffer.truncate(if polled.is_ready() { length } else { 0 });
            this.read = 0;
            ready!(polled)?;
        }
        let rest = this.buffer.get(this.read..).unwrap_or_default();
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let part = rest.get(..line.min(out.remaining())).unwrap_or_default();
        out.put_slice(part);
        this.read += part.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByLine {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncTokioStream for ByLine {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}
