//! Watches network interfaces come and go, and has the manager follow.

use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::{MulticastGroup, new_multicast_connection};

use crate::control::Shared;

/// Interfaces usually change several at a time: a burst is answered once.
const SETTLE: Duration = Duration::from_millis(20);
/// Also without news, in case some were lost.
const AT_LEAST_EVERY: Duration = Duration::from_secs(5);

/// Runs until the process ends.
pub async fn watch(manager: Shared) -> std::io::Result<()> {
    let (connection, _handle, mut news) = new_multicast_connection(&[MulticastGroup::Link])?;
    tokio::spawn(connection);
    loop {
        // Nothing heard in time and news both lead to a look.
        let _heard = tokio::time::timeout(AT_LEAST_EVERY, news.next()).await;
        tokio::time::sleep(SETTLE).await;
        while let Ok(Some(_)) = tokio::time::timeout(Duration::ZERO, news.next()).await {}
        let manager = Shared::clone(&manager);
        let looked = tokio::task::spawn_blocking(move || match manager.lock() {
            Ok(mut manager) => manager.reconcile(),
            Err(_) => tracing::error!("the manager is in an unknown state: restart the switch"),
        });
        if let Err(error) = looked.await {
            tracing::error!(%error, "following the interfaces failed");
        }
    }
}
