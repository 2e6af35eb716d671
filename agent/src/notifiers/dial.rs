//! Names to addresses and addresses to connections, within a limit and without holding up the runtime.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// Limit of a name's resolution.
const RESOLVE: Duration = Duration::from_secs(10);
/// Limit for each address: one that swallows packets leaves time for the next.
const CONNECT: Duration = Duration::from_secs(5);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;

/// Addresses of a host, by the C library's resolver on a thread of its own; never none.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(RESOLVE, tokio::net::lookup_host((host, port))).await.map_err(|_| late("its name server", RESOLVE))?;
    let addresses: Vec<_> = found?.take(ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// A connection to the first address that takes one.
pub(super) async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address to connect to");
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = late("it", CONNECT),
        }
    }
    Err(last)
}

fn late(who: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{who} did not answer within {} s", limit.as_secs()))
}
