//! An HTTP server on loopback that behaves as a service does: what it answers follows from what it was sent and from what it holds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// What the service was sent.
pub struct Request {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    /// The body, if it is JSON and says so.
    pub fn json(&self) -> Option<Value> {
        let kind = self.headers.get("content-type")?.to_str().ok()?;
        if !kind.starts_with("application/json") {
            return None;
        }
        serde_json::from_slice(&self.body).ok()
    }

    /// A parameter of the query.
    pub fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// What the service answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    pub fn new(status: u16, body: impl ToString) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    pub fn json(status: u16, body: Value) -> Self {
        Self { status, headers: vec![("content-type", "application/json".into())], body: body.to_string() }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The behaviour of a service.
pub trait Protocol: Send + 'static {
    fn answer(&mut self, request: &Request) -> Reply;
}

struct State<P> {
    protocol: P,
    /// What it answers first, whatever it is sent.
    script: VecDeque<Reply>,
    /// Method and path with query of each request.
    requests: Vec<String>,
}

pub struct Service<P> {
    pub address: SocketAddr,
    state: Arc<Mutex<State<P>>>,
    server: tokio::task::JoinHandle<()>,
}

impl<P> Drop for Service<P> {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl<P: Protocol> Service<P> {
    pub async fn start(protocol: P) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { protocol, script: VecDeque::new(), requests: Vec::new() }));
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&state), request));
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, server }
    }

    /// What it holds now.
    pub fn holds<T>(&self, read: impl FnOnce(&mut P) -> T) -> T {
        read(&mut self.state().protocol)
    }

    /// What it answers next, once, in place of what follows from the request.
    pub fn next(&self, reply: Reply) {
        self.state().script.push_back(reply);
    }

    /// The requests since the last time, as method and path with query.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    fn state(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap()
    }
}

async fn serve<P: Protocol>(
    state: Arc<Mutex<State<P>>>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let target = format!("{} {}", head.method, head.uri);
    let (path, whole) = (head.uri.path().to_owned(), head.uri.to_string());
    let request = Request { method: head.method, target: whole, path, query, headers: head.headers, body };
    let reply = {
        let mut state = state.lock().unwrap();
        state.requests.push(target);
        let scripted = state.script.pop_front();
        scripted.unwrap_or_else(|| state.protocol.answer(&request))
    };
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap();
    for (name, value) in reply.headers {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    Ok(response)
}
