//! An HTTP server on loopback that answers by script and tells what it was sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// What the server does with one request.
#[derive(Clone)]
pub enum Answer {
    /// Answers with a status, a header if it has a name, and a body of many segments.
    Status(u16, &'static str, String),
    /// Reads the request and says nothing.
    Hang,
    /// Reads the request and closes the connection.
    Close,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self::Status(status, "", String::new())
    }

    pub fn header(status: u16, name: &'static str, value: &str) -> Self {
        Self::Status(status, name, value.into())
    }
}

/// What the server was sent.
pub struct Request {
    pub connection: usize,
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub struct Receiver {
    pub address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Request>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Receiver {
    /// Starts the server. It goes through the script, and answers 200 once that is done.
    pub async fn start(script: impl IntoIterator<Item = Answer>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, requests) = mpsc::unbounded_channel();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let server = tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (script, tell, tls) = (Arc::clone(&script), tell.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, connection, script, tell).await,
                        // A client that does not trust us ends the handshake, which is what such a test looks at.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, connection, script, tell).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, requests, server }
    }

    /// Stops listening; connections that are open stay so.
    pub async fn stop(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    /// The next request.
    pub async fn next(&mut self) -> Request {
        tokio::time::timeout(Duration::from_secs(10), self.requests.recv()).await.expect("no request within 10 s").unwrap()
    }

    /// Whether nobody has asked since the last [`next`](Self::next).
    pub fn was_left_alone(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    connection: usize,
    script: Arc<Mutex<VecDeque<Answer>>>,
    tell: mpsc::UnboundedSender<Request>,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (script, tell) = (Arc::clone(&script), tell.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let _ =
                tell.send(Request { connection, method: head.method, target: head.uri.to_string(), headers: head.headers, body });
            let answer = script.lock().unwrap().pop_front().unwrap_or_else(|| Answer::status(200));
            match answer {
                Answer::Status(status, name, value) => {
                    let mut response = Response::new(Full::new(Bytes::from(" ".repeat(48 * 1024))));
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    if !name.is_empty() {
                        response.headers_mut().insert(name, value.parse().unwrap());
                    }
                    Ok(response)
                }
                Answer::Hang => std::future::pending::<Result<_, Infallible>>().await.map_err(|never| match never {}),
                Answer::Close => Err(io::Error::other("closed by script")),
            }
        }
    });
    // The script ends some connections on purpose.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
