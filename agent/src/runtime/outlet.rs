//! The way out: the router with its channels, and a courier for each that is looked after.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::stop::keep_running;
use crate::alerting::Router;
use crate::config::Config;
use crate::notifiers::{self, Sender};

/// The way out: channels with their couriers.
pub struct Outlet {
    /// Who gets what.
    pub router: Router,
    couriers: JoinSet<()>,
}

impl Outlet {
    /// Makes the channels that the configuration enables; one that cannot be made costs only itself.
    pub fn open(config: &Config, hostname: &str) -> Self {
        let (channels, errors) = notifiers::build(config);
        errors.iter().for_each(|error| tracing::error!("{error}; the other channels go on"));
        let sender = Sender {
            hostname: hostname.to_owned(),
            address: own_address(),
            time_zone: jiff::tz::TimeZone::system(),
            pid: std::process::id(),
        };
        let router = Router::new(channels, sender);
        let mut couriers = JoinSet::new();
        for courier in router.couriers() {
            let courier = Arc::new(courier);
            couriers.spawn(keep_running(format!("channel {}", courier.name()), move || {
                let courier = Arc::clone(&courier);
                async move { courier.run().await }
            }));
        }
        Self { router, couriers }
    }

    /// Sends what is queued, for as long as `limit`.
    pub async fn close(&mut self, limit: Duration) {
        self.router.flush(limit).await;
        self.couriers.abort_all();
    }
}

/// The address that the host would use towards the world; empty where it has none. Connecting a datagram socket sends nothing.
fn own_address() -> String {
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // An address that is reserved for documentation (RFC 5737), behind the default route wherever there is one.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    address.map_or(String::new(), |address| address.ip().to_string())
}
