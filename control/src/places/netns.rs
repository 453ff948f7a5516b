//! The addresses inside a network namespace, read on a thread of its own that ends there.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Global addresses of the namespace's interfaces.
pub(super) fn addresses(netns: &Path) -> Result<Vec<IpAddr>, String> {
    let file = File::open(netns).map_err(|error| error.to_string())?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| error.to_string())?;
            listed()
        });
        thread.join().unwrap_or_else(|_| Err("the look into it failed".to_owned()))
    })
}

fn listed() -> Result<Vec<IpAddr>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut addresses = Vec::new();
        let mut messages = handle.address().get().execute();
        while let Some(message) = messages.try_next().await.map_err(|error| error.to_string())? {
            if message.header.scope != AddressScope::Universe {
                continue;
            }
            addresses.extend(message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            }));
        }
        Ok(addresses)
    })
}
