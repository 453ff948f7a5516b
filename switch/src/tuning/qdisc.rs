//! The root qdisc of a pod's eth0, by route netlink, in the calling thread's network namespace.
//!
//! A veth has none by default: what does not fit its ring is dropped. With one the kernel stops the pod instead (veth.c,
//! `veth_xmit`, Linux 6.12). Only `noqueue` is ever replaced, so that removing ours brings it back.

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::TuningError;
use crate::netns::with_netlink;

/// Fair to the pod's flows where the kernel has it, else what every kernel has.
const KINDS: [&str; 2] = ["fq_codel", "pfifo_fast"];

/// Kind of the root qdisc of this interface; none for `noqueue`.
pub(super) fn root(index: u32) -> Result<Option<String>, TuningError> {
    with_netlink(async |handle| {
        let mut all = handle.qdisc().get().index(index as i32).execute();
        while let Some(found) = all.try_next().await.map_err(|error| error.to_string())? {
            if found.header.index != index as i32 || found.header.parent != TcHandle::ROOT {
                continue;
            }
            return Ok(found.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) if kind != "noqueue" => Some(kind),
                _ => None,
            }));
        }
        Ok(None)
    })
    .map_err(|reason| TuningError::Qdisc { action: "read", reason })
}

/// Gives the interface a queue: the first kind that this kernel has.
pub(super) fn add(index: u32) -> Result<(), TuningError> {
    let add = |kind: &str| {
        let mut message = at_root(index);
        message.attributes.push(TcAttribute::Kind(kind.to_owned()));
        ask(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
    };
    let [best, any] = KINDS;
    add(best).or_else(|_| add(any)).map_err(|reason| TuningError::Qdisc { action: "add", reason })
}

/// Takes it away, unless somebody has put another one there.
pub(super) fn remove(index: u32) -> Result<(), TuningError> {
    if !root(index)?.is_some_and(|kind| KINDS.contains(&kind.as_str())) {
        return Ok(());
    }
    ask(RouteNetlinkMessage::DelQueueDiscipline(at_root(index)), 0)
        .map_err(|reason| TuningError::Qdisc { action: "remove", reason })
}

fn at_root(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::ROOT;
    message
}

/// Sends a request and waits for its acknowledgement.
fn ask(message: RouteNetlinkMessage, flags: u16) -> Result<(), String> {
    with_netlink(async |mut handle| {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut replies = handle.request(request).map_err(|error| error.to_string())?;
        while let Some(reply) = replies.next().await {
            if let NetlinkPayload::Error(error) = reply.payload
                && error.code.is_some()
            {
                return Err(error.to_io().to_string());
            }
        }
        Ok(())
    })
}
