//! What a snapshot does not say: behaviour that EC2 leaves to facts about the network around the node.
//!
//! Given to the compiler and to the oracles alike; the defaults are EC2's behaviour without those facts.

use ipnet::IpNet;

/// Settings of the rules. The default tracks nothing beyond what the rules ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Destinations whose flows are tracked whatever the rules say: EC2 does so for network load balancers, NAT
    /// gateways, interface endpoints and some more (EC2 user guide, "Automatically tracked connections"), which
    /// addresses alone do not reveal. Tracking more than EC2 is always safe: it only costs entries.
    pub always_tracked: Vec<IpNet>,
}
