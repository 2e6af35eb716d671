//! The far end of a webhook: an HTTP server on the loopback that keeps what it is sent.
//!
//! For tests, the demonstration and the benchmark, whose figures end at [`Received::arrived_ns`]: so it reads sockets itself,
//! where it can take the time at the first byte, and leaves only the syntax of the head to `httparse`. It is no general server:
//! bodies must be JSON and have a `Content-Length`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// Longest head of a request and longest body.
const MOST_BYTES: usize = 1 << 20;

/// Configuration with which an agent sends each alert by itself and as many as come, for whoever looks at single alerts; further
/// keys of `[alerting]` may follow.
pub const EACH: &str = "[alerting.grouping]\nenabled = false\n[alerting]\nmax_alerts_per_minute = 10000\n\
    max_alerts_per_hour = 100000\nmax_alerts_per_hour_overall = 100000\n";

/// One request.
#[derive(Clone, Debug)]
pub struct Received {
    /// `CLOCK_MONOTONIC` in nanoseconds when the first byte of the request was read; comparable with a kernel trace.
    pub arrived_ns: u64,
    /// The method: `POST`.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Value,
}

impl Received {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    received: Vec<Received>,
    /// What was refused, and why.
    refused: Vec<String>,
    connections: Vec<TcpStream>,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiver {
    /// Listens on a free port of the loopback; every JSON request is answered with 200.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Listens on this address, such as one where no receiver has been so far.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub fn start_at(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("cannot tell the port of the receiver")?;
        let shared = Arc::new(Shared::default());
        let acceptor = thread::Builder::new()
            .name("receiver".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || accept(&listener, &shared)
            })
            .context("cannot start the receiver's thread")?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens: `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Everything received so far, in the order in which it was complete.
    pub fn all(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// The first request whose body `accept` takes, received already or within `limit`.
    ///
    /// # Errors
    /// If there is none; the message shows what was received and what was refused.
    pub fn wait_for(&self, limit: Duration, accept: impl Fn(&Value) -> bool) -> Result<Received> {
        let deadline = Instant::now() + limit;
        let mut looked_at = 0;
        let mut state = self.shared.lock();
        loop {
            let fresh = state.received.get(looked_at..).unwrap_or_default();
            if let Some(found) = fresh.iter().find(|received| accept(&received.body)) {
                return Ok(found.clone());
            }
            looked_at = state.received.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let bodies: Vec<_> = state.received.iter().map(|received| received.body.to_string()).collect();
                bail!("no such message within {limit:?}; received: {bodies:#?}; refused: {:#?}", state.refused);
            }
            state = self.shared.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let connections = {
            let mut state = self.shared.lock();
            state.stopping = true;
            std::mem::take(&mut state.connections)
        };
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Wakes the acceptor, which then sees that it must stop.
        if TcpStream::connect(self.address).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        let Ok(handle) = connection.try_clone() else { continue };
        {
            let mut state = shared.lock();
            if state.stopping {
                return;
            }
            state.connections.push(handle);
        }
        let serving = Arc::clone(shared);
        let served = thread::Builder::new().name("receiver-peer".into()).spawn(move || {
            if let Err(error) = serve(&connection, &serving) {
                serving.lock().refused.push(format!("{error:#}"));
            }
            // The handle that is kept for the end of the server would keep it open.
            let _ = connection.shutdown(Shutdown::Both);
        });
        if let Err(error) = served {
            shared.lock().refused.push(format!("cannot start a thread for a connection: {error}"));
        }
    }
}

/// Takes one request after the other from a connection until the peer closes it.
fn serve(mut connection: &TcpStream, shared: &Shared) -> Result<()> {
    connection.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    let mut bytes = Vec::new();
    let mut first_byte = None;
    loop {
        match parse(&bytes) {
            Ok(Some((length, mut received))) => {
                received.arrived_ns = first_byte.take().unwrap_or_else(now);
                bytes.drain(..length);
                shared.lock().received.push(received);
                shared.arrived.notify_all();
                connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").context("cannot answer")?;
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return Err(error);
            }
        }
        let mut chunk = [0_u8; 16 << 10];
        let read = match connection.read(&mut chunk) {
            Ok(0) if bytes.is_empty() => return Ok(()),
            Ok(0) => bail!("a connection was closed in the middle of a request of {} bytes so far", bytes.len()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read a request"),
        };
        first_byte.get_or_insert_with(now);
        bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
}

/// The first request in `bytes` and its length; `None` while it isn't complete.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Received)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).context("a request that is not HTTP/1.1")? else {
        if bytes.len() > MOST_BYTES {
            bail!("a request with a head of more than {MOST_BYTES} bytes");
        }
        return Ok(None);
    };
    let received = Received {
        arrived_ns: 0,
        method: request.method.unwrap_or_default().to_owned(),
        path: request.path.unwrap_or_default().to_owned(),
        headers: request
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
            .collect(),
        body: Value::Null,
    };
    let length = received.header("content-length").context("a request without Content-Length")?;
    let length: usize = length.parse().with_context(|| format!("a request with the Content-Length {length:?}"))?;
    if length > MOST_BYTES {
        bail!("a request with a body of {length} bytes; {MOST_BYTES} are the most");
    }
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    let body =
        serde_json::from_slice(body).with_context(|| format!("a body that is not JSON: {}", String::from_utf8_lossy(body)))?;
    Ok(Some((head + length, Received { body, ..received })))
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(body: &str) -> String {
        format!("POST /hook?a=b HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn requests_are_kept_with_their_time_on_one_connection_and_in_pieces() {
        let receiver = Receiver::start().unwrap();
        let mut peer = TcpStream::connect(receiver.address).unwrap();
        let before = now();
        let both = post(r#"{"metric":"a"}"#) + &post(r#"{"metric":"b"}"#);
        let (start, rest) = both.split_at(30);
        peer.write_all(start.as_bytes()).unwrap();
        peer.write_all(rest.as_bytes()).unwrap();
        let second = receiver.wait_for(Duration::from_secs(5), |body| body["metric"] == "b").unwrap();
        let all = receiver.all();
        assert_eq!(all.len(), 2);
        assert_eq!((second.method.as_str(), second.path.as_str()), ("POST", "/hook?a=b"));
        assert_eq!(second.header("idempotency-key"), Some("k1"));
        assert!(all.iter().all(|received| (before..=now()).contains(&received.arrived_ns)));
    }

    #[test]
    fn what_is_not_json_is_refused_and_named() {
        let receiver = Receiver::start().unwrap();
        let mut peer = TcpStream::connect(receiver.address).unwrap();
        peer.write_all(post("{half").as_bytes()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let error = receiver.wait_for(Duration::from_millis(100), |_| true).unwrap_err().to_string();
        assert!(error.contains("not JSON: {half"), "{error}");
    }
}
