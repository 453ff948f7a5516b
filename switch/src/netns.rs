//! Looks into a pod's network namespace: which host interface is the other end of its eth0, and
//! whatever else somebody wants to see or change there.
//!
//! Each look runs on a thread of its own, which ends in the pod's namespace and is not used again.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Name of a pod's interface under Kubernetes.
pub(crate) const POD_INTERFACE: &str = "eth0";

/// The namespace could not be looked into.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    /// It cannot be entered.
    #[error("network namespace {0} cannot be entered: {1}")]
    Enter(String, std::io::Error),
    /// Its eth0 could not be read.
    #[error("network namespace {0}: eth0: {1}")]
    Interface(String, String),
    /// Its eth0 is not one end of a veth whose other end is here.
    #[error("network namespace {0}: the other end of eth0 is not in this network namespace")]
    NoHostEnd(String),
}

/// Name of the host end of the veth whose other end is `eth0` in the namespace.
pub(crate) fn host_end(netns: &Path) -> Result<String, NetnsError> {
    let shown = netns.display().to_string();
    let index = inside(netns, peer_index)?.map_err(|error| NetnsError::Interface(shown.clone(), error))?;
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .map_err(|error| NetnsError::Enter(shown.clone(), error.into()))?;
    netdevice::index_to_name(&any, index).map_err(|_| NetnsError::NoHostEnd(shown))
}

/// Runs something inside the namespace.
pub(crate) fn inside<T: Send>(netns: &Path, look: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let refuse = |error: std::io::Error| NetnsError::Enter(netns.display().to_string(), error);
    let file = File::open(netns).map_err(refuse)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(look())
        });
        thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the look into it failed")))
    })
    .map_err(refuse)
}

/// `IFLA_LINK` of eth0 (rtnetlink(7)): the interface index of a veth's other end, in that end's namespace.
fn peer_index() -> Result<u32, String> {
    with_netlink(async |handle| {
        let mut links = handle.link().get().match_name(POD_INTERFACE).execute();
        let link = links.try_next().await.map_err(|error| error.to_string())?.ok_or("is missing")?;
        let peer = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(index),
            _ => None,
        });
        peer.ok_or_else(|| "has no other end: it is not a veth".to_owned())
    })
}

/// Asks route netlink of the calling thread's namespace.
pub(crate) fn with_netlink<T>(
    ask: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T, String>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        ask(handle).await
    })
}
