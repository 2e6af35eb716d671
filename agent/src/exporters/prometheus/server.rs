//! The HTTP side of the endpoint: one path, two methods, and limits on whoever asks.
//!
//! A connection carries one request. Those that are slow hold a connection only, and of these there are few: further clients wait in
//! the kernel's queue, and none of them waits for what the engine does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Counts, Format, Refusal, Scrape};
use crate::config;

/// Scrapes at a time; a further one is told to come again.
const SCRAPES: usize = 4;
/// Connections at a time; a further one waits in the kernel.
const CONNECTIONS: usize = 16;
/// Longest head of a request in bytes. There is no body.
const HEAD: usize = 8192;
/// How long a client may take for the head of its request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may take from its beginning to its end.
const ALL_WITHIN: Duration = Duration::from_secs(10);
/// The first wait after the address was refused, or a connection could not be accepted; it doubles each time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest such wait.
const LONGEST: Duration = Duration::from_secs(60);

type Page = Response<Full<Bytes>>;

/// What all connections share.
struct Endpoint {
    path: String,
    scrapes: mpsc::Sender<Scrape>,
    counts: Arc<Counts>,
    slots: Arc<Semaphore>,
}

/// Listens and serves for ever. An address that is refused costs the endpoint alone, and is tried again. What is under way ends with
/// the future.
pub async fn serve(settings: config::Prometheus, scrapes: mpsc::Sender<Scrape>, counts: Arc<Counts>) {
    let listener = listen(settings.bind, &settings.path).await;
    serve_on(listener, settings.path, scrapes, counts).await;
}

async fn serve_on(listener: TcpListener, path: String, scrapes: mpsc::Sender<Scrape>, counts: Arc<Counts>) {
    let endpoint = Arc::new(Endpoint { path, scrapes, counts, slots: Arc::new(Semaphore::new(SCRAPES)) });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut wait = FIRST;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                wait = FIRST;
                let endpoint = Arc::clone(&endpoint);
                connections.spawn(async move {
                    endpoint.converse(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("prometheus: cannot accept a connection: {error}; tried again in {wait:?}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Tries until the address is free. What stays the same is said once.
async fn listen(bind: SocketAddr, path: &str) -> TcpListener {
    let (mut wait, mut said) = (FIRST, String::new());
    loop {
        match TcpListener::bind(bind).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(bind);
                tracing::info!("prometheus: metrics are at http://{address}{path}");
                return listener;
            }
            Err(error) => {
                let error = error.to_string();
                if error != said {
                    tracing::error!(
                        "prometheus: cannot listen on {bind}: {error}; everything else goes on, and it is tried again and again; set \
                         another [prometheus] bind, or free this one"
                    );
                    said = error;
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}

impl Endpoint {
    /// Serves one connection to its end.
    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        // Held until the whole page is sent.
        let slot = Mutex::new(None);
        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(&request, &slot).await));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).keep_alive(false).max_buf_size(HEAD);
        let refusal = match tokio::time::timeout(ALL_WITHIN, http.serve_connection(TokioIo::new(stream), service)).await {
            Err(_) => Some(Refusal::Timeout),
            Ok(Err(error)) if error.is_timeout() => Some(Refusal::Timeout),
            Ok(Err(error)) if error.is_parse() => Some(Refusal::Malformed),
            // Whoever goes away was not refused.
            Ok(_) => None,
        };
        if let Some(why) = refusal {
            self.counts.refuse(why);
        }
    }

    async fn answer<B>(&self, request: &Request<B>, slot: &Mutex<Option<OwnedSemaphorePermit>>) -> Page {
        if request.uri().path() != self.path {
            return plain(StatusCode::NOT_FOUND, format!("there is nothing here; metrics are at {}\n", self.path));
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut page = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
            page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return page;
        }
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.counts.refuse(Refusal::Busy);
            let mut page = plain(StatusCode::SERVICE_UNAVAILABLE, format!("{SCRAPES} scrapes are under way\n"));
            page.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return page;
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::negotiate(accept);
        let (reply, text) = oneshot::channel();
        // Neither fails unless the agent stops, or rendering failed.
        let asked = self.scrapes.send(Scrape { format, reply }).await;
        let (Ok(()), Ok(text)) = (asked, text.await) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the agent has no page\n".into());
        };
        self.counts.scrapes.fetch_add(1, Ordering::Relaxed);
        respond(StatusCode::OK, format.content_type(), text)
    }
}

fn plain(status: StatusCode, text: String) -> Page {
    respond(status, "text/plain; charset=utf-8", text.into())
}

fn respond(status: StatusCode, content_type: &'static str, text: Bytes) -> Page {
    let mut page = Response::new(Full::new(text));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    const REQUEST: &str = "GET /m HTTP/1.1\r\nHost: h\r\n\r\n";

    struct Served {
        address: SocketAddr,
        scrapes: mpsc::Receiver<Scrape>,
        counts: Arc<Counts>,
        _connections: JoinSet<()>,
    }

    async fn served() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asking, scrapes) = mpsc::channel(SCRAPES);
        let counts = Arc::<Counts>::default();
        let mut connections = JoinSet::new();
        connections.spawn(serve_on(listener, "/m".into(), asking, Arc::clone(&counts)));
        Served { address, scrapes, counts, _connections: connections }
    }

    async fn send(address: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_fifth_scrape_at_a_time_is_told_to_come_again() {
        let mut served = served().await;
        let mut waiting = Vec::new();
        for _ in 0..SCRAPES {
            let stream = send(served.address, REQUEST).await;
            waiting.push((stream, served.scrapes.recv().await.unwrap()));
        }
        let refused = answer(send(served.address, REQUEST).await).await;
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
        assert_eq!(served.counts.refused[0].load(Ordering::Relaxed), 1);
        for (stream, scrape) in waiting {
            scrape.reply.send(Bytes::from_static(b"page")).unwrap();
            assert!(answer(stream).await.ends_with("\r\n\r\npage"));
        }
        assert_eq!(served.counts.scrapes.load(Ordering::Relaxed), SCRAPES as u64);
        // The slots are free again.
        let stream = send(served.address, REQUEST).await;
        drop(served.scrapes.recv().await.unwrap());
        assert!(answer(stream).await.starts_with("HTTP/1.1 500 "), "nobody has the page");
    }

    #[tokio::test]
    async fn another_path_and_another_method_wait_for_nobody() {
        let served = served().await;
        for (request, status) in [
            ("GET / HTTP/1.0\r\n\r\n", "404"),
            ("GET /m/ HTTP/1.0\r\n\r\n", "404"),
            ("PUT /m HTTP/1.0\r\n\r\n", "405"),
            ("x\r\n\r\n", "400"),
        ] {
            let answer = answer(send(served.address, request).await).await;
            assert!(answer.split(' ').nth(1) == Some(status), "{request}: {answer}");
        }
        assert_eq!(served.counts.refused[2].load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_clients_hold_a_connection_for_a_while_only() {
        let mut served = served().await;
        let slow: Vec<_> = (0..CONNECTIONS * 2).map(|_| send(served.address, "GET /m HTTP/1.1\r\nHost:")).collect();
        let mut open = Vec::new();
        for slow in slow {
            open.push(slow.await);
        }
        // Behind all of them: it has its turn when they have had theirs.
        let last = send(served.address, REQUEST).await;
        let began = tokio::time::Instant::now();
        served.scrapes.recv().await.unwrap().reply.send(Bytes::from_static(b"page")).unwrap();
        assert!(began.elapsed() <= HEAD_WITHIN * 3, "{:?}", began.elapsed());
        assert!(answer(last).await.ends_with("page"));
        for stream in open {
            assert!(!answer(stream).await.contains(" 200 "));
        }
        assert_eq!(served.counts.refused[1].load(Ordering::Relaxed), CONNECTIONS as u64 * 2);
    }
}
