//! What the switch says at one moment: the counters that rates are made of.

use std::time::Instant;

use espalier_api::control::{PodStatus, Status};
use espalier_api::hits::RuleUsage;

use crate::args::Global;
use crate::client::{Client, ClientError};

/// Counters of one moment.
pub(super) struct Sample {
    /// When they were asked for.
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) pods: Vec<PodStatus>,
    /// Absent where the switch is too old to count them.
    pub(super) rules: Option<RuleUsage>,
}

impl Sample {
    /// Asks the switch, on a connection of its own: it may have been restarted since the last time.
    pub(super) fn take(global: &Global) -> Result<Self, ClientError> {
        let at = Instant::now();
        let mut client = Client::connect(global)?;
        let status = client.status()?;
        let pods = client.get("/v1/pods")?;
        let rules = match client.get("/v1/rules") {
            Err(ClientError::UnknownCall { .. }) => None,
            rules => Some(rules?),
        };
        Ok(Self { at, status, pods, rules })
    }
}

#[cfg(test)]
pub(super) mod made {
    //! Samples as a switch with two pods would give them.

    use std::time::Duration;

    use serde_json::json;

    use super::*;

    /// Counters of the pod `shop/web-0` and of its drops, and how the switch is called.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Reading {
        pub(in super::super) pid: u32,
        pub(in super::super) after: Duration,
        pub(in super::super) rx: u64,
        pub(in super::super) denied: u64,
    }

    /// A sample taken so long after `start`.
    pub(in super::super) fn sample(start: Instant, reading: Reading) -> Sample {
        let Reading { pid, after, rx, denied } = reading;
        let counters = json!({
            "rx": rx, "forwarded": rx - denied, "consumed": 0, "dropped": {"denied-egress": denied}, "originated": 0,
        });
        let status = json!({
            "version": "0.1.0", "apiVersion": 1, "pid": pid, "uptimeSeconds": 100, "generation": 7, "pods": 2, "groups": 1,
            "rules": 1, "workers": [{"worker": 0, "pods": 2, "batches": rx / 10, "sleeps": 0, "flows": 3, "counters": counters}],
            "frames": {"free": 1, "fill": 0, "rx": 0, "worker": 0, "tx": 0, "total": 1}, "counters": counters,
            "steering": {}, "capabilities": {"kernel": "6.1", "multiBuffer": true, "maxPacket": 1514, "hugepages": false},
        });
        let pod = |name: &str, rx: u64, denied: u64| {
            json!({
                "name": name, "eniId": "eni-0a1b2c3d4e5f60718", "vlan": 3, "mac": "02:25:0a:00:00:07", "addresses": [],
                "securityGroups": [], "state": {"state": "up"}, "worker": 0,
                "counters": {"rx": rx, "rxBytes": rx * 100, "tx": 0, "txBytes": 0,
                             "egressDropped": {"denied-egress": denied}, "ingressDropped": {}},
            })
        };
        let pods = json!([pod("shop/db-0", 0, 0), pod("shop/web-0", rx, denied)]);
        let hits = |packets| {
            json!({"packets": packets, "bytes": packets * 100, "replyPackets": packets, "replyBytes": packets * 100,
                   "flows": packets / 100, "refusedFlows": 0})
        };
        let rule = |id: &str, packets| {
            let rule = json!({"SecurityGroupRuleId": id, "IsEgress": true, "IpProtocol": "tcp", "FromPort": 5432,
                              "ToPort": 5432, "CidrIpv4": "10.0.0.0/8"});
            json!({"group": "sg-web", "rule": rule, "pods": 1, "knownSeconds": 100, "hits": hits(packets)})
        };
        let rules = json!({
            "countingSeconds": 100, "rules": [rule("sgr-idle", 0), rule("sgr-busy", rx - denied)], "gone": hits(0),
            "withoutRule": hits(0), "earlier": hits(0),
        });
        Sample {
            at: start + after,
            status: serde_json::from_value(status).unwrap(),
            pods: serde_json::from_value(pods).unwrap(),
            rules: Some(serde_json::from_value(rules).unwrap()),
        }
    }
}
