//! A service on loopback whose answer is a function of the request, and that tells what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper::HeaderMap;
use hyper::body::Bytes;
use serde_json::Value;

pub use super::service::Reply;
use super::service::{self, Protocol};

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

type Answer = Box<dyn Fn(&Request) -> Reply + Send>;

struct Answering {
    answer: Answer,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Protocol for Answering {
    fn answer(&mut self, request: &service::Request) -> Reply {
        let request = Request {
            method: request.method.to_string(),
            target: request.target.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
        };
        let reply = (self.answer)(&request);
        self.asked.lock().unwrap().push(request);
        reply
    }
}

pub struct Service {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    _server: service::Service<Answering>,
}

impl Service {
    /// Starts it; `answer` decides.
    pub async fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let protocol = Answering { answer: Box::new(answer), asked: Arc::clone(&asked) };
        let server = service::Service::start(protocol).await;
        Self { address: server.address, asked, _server: server }
    }

    /// One that answers everybody the same.
    pub async fn fixed(reply: Reply) -> Self {
        Self::start(move |_| reply.clone()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked since the last call.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}
