//! The way out: the outbox, the router with its channels, and a courier for each that is looked after.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::stop::{Part, StopFlag, keep_running};
use crate::alerting::{Courier, Outbox, Restored, Router};
use crate::config::Config;
use crate::host;
use crate::model::Alert;
use crate::notifiers::{self, Sender};

/// How long a start waits for what an earlier run has left; a disk that takes longer costs that, not the watching.
const LOAD: Duration = Duration::from_secs(3);

/// The way out: channels with their couriers, and what they keep on disk.
pub struct Outlet {
    /// Who gets what.
    pub router: Router,
    couriers: JoinSet<()>,
    keeper: Option<Part>,
    /// The latest alert of each incident that an earlier run has left open.
    pub open: Vec<Arc<Alert>>,
}

impl Outlet {
    /// Makes the channels that the configuration enables; one that cannot be made costs only itself. Takes up what an earlier run has
    /// left.
    ///
    /// # Errors
    /// The system gives no thread.
    pub async fn open(config: &Config, hostname: &str) -> anyhow::Result<Self> {
        let directory = &config.agent.data_dir;
        // Nobody asked for it to be made.
        let (outbox, keeper) = if directory.is_dir() {
            let (outbox, mut keeper) = Outbox::in_directory(directory, config.alerting.outbox.max_size);
            let part = Part::start("outbox", StopFlag::default(), move || keeper.run()).context("cannot start a thread")?;
            (outbox, Some(part))
        } else {
            tracing::info!(
                "alerts wait in memory alone: there is no directory {}; [agent] data_dir names it",
                directory.display()
            );
            (Outbox::in_memory(), None)
        };
        let mut restored = Restored::default();
        if keeper.is_some() {
            match outbox.restore(host::now(), LOAD).await {
                Some(found) => restored = found,
                None => tracing::warn!("the outbox in {} did not answer within {LOAD:?}", directory.display()),
            }
        }
        let open = std::mem::take(&mut restored.open);
        let router = Router::new(channels(config), sender(hostname), &config.alerting, outbox, restored);
        let mut outlet = Self { router, couriers: JoinSet::new(), keeper, open };
        outlet.router.couriers().collect::<Vec<_>>().into_iter().for_each(|courier| outlet.run(courier));
        Ok(outlet)
    }

    /// Takes over another configuration; what waits is sent as it says now.
    pub fn reconfigure(&mut self, config: &Config) {
        let new = self.router.reconfigure(channels(config), &config.alerting);
        new.into_iter().for_each(|courier| self.run(courier));
    }

    /// Sends what is queued, for as long as `limit`, and has the rest on disk.
    pub async fn close(self, limit: Duration) {
        let Self { router, mut couriers, keeper, .. } = self;
        let deadline = Instant::now() + limit;
        router.flush(limit.saturating_sub(SAVE)).await;
        couriers.abort_all();
        while couriers.join_next().await.is_some() {}
        // With the last of its holders the outbox ends, and its keeper when all is written.
        drop(router);
        if let Some(keeper) = keeper {
            keeper.join(deadline).await;
        }
    }

    fn run(&mut self, courier: Courier) {
        let courier = Arc::new(courier);
        self.couriers.spawn(keep_running(format!("channel {}", courier.name()), move || {
            let courier = Arc::clone(&courier);
            async move { courier.run().await }
        }));
    }
}

/// What is left of the time for a stop to write what was not sent.
const SAVE: Duration = Duration::from_millis(200);

fn channels(config: &Config) -> Vec<notifiers::Channel> {
    let (channels, errors) = notifiers::build(config);
    errors.iter().for_each(|error| tracing::error!("{error}; the other channels go on"));
    channels
}

/// Who speaks.
pub fn sender(hostname: &str) -> Sender {
    Sender {
        hostname: hostname.to_owned(),
        address: own_address(),
        time_zone: jiff::tz::TimeZone::system(),
        pid: std::process::id(),
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
