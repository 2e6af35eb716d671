//! Lines on their way: a datagram each to the local daemon or over UDP, or a stream over TCP.
//!
//! Syslog has no reply. What can be known of a line's fate is asked of the kernel: whether a datagram was bounced, and whether the
//! other end has acknowledged what was written to a stream. A line that may not have arrived is sent again, and so may arrive twice.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::ioctl;
use rustix::net::RecvFlags;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::super::{Accepted, SendError, dial};
use crate::config::SyslogTarget;

/// Limit of one message, all its lines together; a daemon that is stopped while its queue is full would otherwise hold us for ever.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a server, whose name may have to be resolved.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a host that has no such port may take to say so.
const BOUNCE: Duration = Duration::from_millis(200);

/// The way to one target.
pub(super) struct Wire {
    target: SyslogTarget,
    /// Whether lines of a stream are preceded by their length.
    is_counted: bool,
    /// The connection of the last message, where it was well at its end.
    stream: Mutex<Option<TcpStream>>,
}

impl Wire {
    pub(super) fn new(target: SyslogTarget, is_counted: bool) -> Self {
        Self { target, is_counted, stream: Mutex::new(None) }
    }

    /// Sends lines, once.
    pub(super) async fn send(&self, lines: &[Bytes]) -> Result<Accepted, SendError> {
        let (limit, late) = match &self.target {
            SyslogTarget::Local(_) => (TIMEOUT, "the daemon does not read its socket"),
            SyslogTarget::Udp { .. } | SyslogTarget::Tcp { .. } => (REMOTE_TIMEOUT, "the server does not take them"),
        };
        let sent = timeout(limit, async {
            match &self.target {
                SyslogTarget::Local(path) => local(path, lines).await,
                SyslogTarget::Udp { host, port } => datagrams(host, *port, lines).await,
                SyslogTarget::Tcp { host, port } => self.stream(host, *port, lines).await,
            }
        });
        match sent.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, late))) {
            Ok(()) => Ok(Accepted { reference: None, answer: format!("{} lines written", lines.len()) }),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn stream(&self, host: &str, port: u16, lines: &[Bytes]) -> io::Result<()> {
        let mut kept = self.stream.lock().await;
        // Taken out, so that one that is given up in the middle of a line is never used again.
        let mut stream = match kept.take().filter(is_open) {
            Some(stream) => stream,
            None => dial::connect(&dial::resolve(host, port).await?).await?,
        };
        let mut bytes = Vec::new();
        for line in lines {
            if self.is_counted {
                bytes.extend_from_slice(format!("{} ", line.len()).as_bytes());
            }
            bytes.extend_from_slice(line);
            if !self.is_counted {
                bytes.push(b'\n');
            }
        }
        stream.write_all(&bytes).await?;
        acknowledged(&stream).await?;
        *kept = Some(stream);
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> SendError {
        let (place, advice) = match &self.target {
            SyslogTarget::Local(path) => {
                let advice = match error.kind() {
                    io::ErrorKind::NotFound => "start the syslog daemon or set alerting.syslog.socket",
                    io::ErrorKind::ConnectionRefused => "nobody listens there, restart the syslog daemon",
                    io::ErrorKind::PermissionDenied => "let the agent's user write to it",
                    _ => "check the syslog daemon",
                };
                (format!("the syslog socket {}", path.display()), advice)
            }
            SyslogTarget::Udp { .. } | SyslogTarget::Tcp { .. } => {
                let advice = match error.kind() {
                    io::ErrorKind::ConnectionRefused => "nobody listens there, check alerting.syslog.address and the server",
                    _ => "see whether the server is up and its name resolves",
                };
                (format!("the syslog server {}", self.target), advice)
            }
        };
        SendError::Retry { reason: format!("cannot write to {place}: {error}; {advice}"), after: None }
    }
}

/// Writes to the local daemon through a socket of its own: a connected one would outlive the daemon that it was connected to.
async fn local(path: &Path, lines: &[Bytes]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    for line in lines {
        socket.send(line).await?;
    }
    Ok(())
}

async fn datagrams(host: &str, port: u16, lines: &[Bytes]) -> io::Result<()> {
    let addresses = dial::resolve(host, port).await?;
    let mut last = None;
    for address in addresses {
        match datagrams_to(address, lines).await {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

async fn datagrams_to(address: SocketAddr, lines: &[Bytes]) -> io::Result<()> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    for line in lines {
        socket.send(line).await?;
    }
    // Whoever has no such port says so (ICMP), and the kernel keeps that for the next call.
    match timeout(BOUNCE, socket.recv(&mut [0])).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Whether the other end has neither closed nor reset a connection, as far as the kernel has heard; tokio may not have asked it yet.
fn is_open(stream: &TcpStream) -> bool {
    let mut unasked = [0; 1024];
    loop {
        match rustix::net::recv(stream, &mut unasked[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return false,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return error == Errno::AGAIN,
        }
    }
}

/// Waits until the other end's kernel has acknowledged all that was written. One whose program has gone resets the connection
/// instead, also where it closed it with lines unread (RFC 2525, section 2.17).
async fn acknowledged(stream: &TcpStream) -> io::Result<()> {
    let mut wait = Duration::from_millis(1);
    loop {
        // In this order: a reset empties the queue, too.
        let left = unacknowledged(stream)?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        if left == 0 {
            return Ok(());
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(50));
    }
}

/// Bytes that were written and are not acknowledged (tcp(7), `SIOCOUTQ`).
fn unacknowledged(stream: &TcpStream) -> io::Result<libc::c_int> {
    // Another name of `SIOCOUTQ`; the type of the number differs between C libraries.
    const SIOCOUTQ: ioctl::Opcode = libc::TIOCOUTQ as ioctl::Opcode;
    // SAFETY: `SIOCOUTQ` writes one int.
    let left = unsafe { ioctl::ioctl(stream, ioctl::Getter::<SIOCOUTQ, libc::c_int>::new()) };
    Ok(left?)
}
