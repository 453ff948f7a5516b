//! What an operator does about a drop: the last column of `docs/DROP-REASONS.md`.
//!
//! The match is exhaustive, so that a new reason is not without advice.

use super::DropReason;

impl DropReason {
    /// What to do, or why nothing is to be done; Markdown.
    pub fn advice(self) -> &'static str {
        match self {
            Self::FrameTooShort
            | Self::TcpHeaderInvalid
            | Self::UdpHeaderInvalid
            | Self::IcmpHeaderInvalid
            | Self::Ipv4HeaderInvalid
            | Self::Ipv6HeaderInvalid
            | Self::Ipv6ExtensionsInvalid => {
                "The sender is broken or hostile; capture it: `espalier capture --drops`."
            }
            Self::Ipv4ChecksumInvalid => {
                "Damaged on the way, or made by a tool that leaves the checksum out. Seen from one pod only: look at its program."
            }
            Self::Ipv4OptionsInvalid | Self::SourceRoute => "Nothing: no ordinary program needs it.",
            Self::VlanTagFromSender => {
                "The pod configures a VLAN inside its branch, which a branch ENI does not carry: remove it."
            }
            Self::EthertypeUnknown => {
                "Nothing, if it is LLDP, STP or the like. A VPC carries IPv4, IPv6 and ARP only."
            }
            Self::ArpInvalid | Self::NeighbourDiscoveryInvalid => {
                "The pod claims an address that is not its own, or announces itself (keepalived, a VPN): a branch ENI has its own addresses only."
            }
            Self::VlanUnknown => {
                "The branch is newer than the snapshot. A moment after a pod starts it is nothing; else look at the agent in `espalier status`."
            }
            Self::PortUnknown => {
                "A pod that has just gone. If it goes on, `espalier status` names the problem."
            }
            Self::Multicast => {
                "Nothing: a VPC carries neither multicast nor broadcast. Most is IPv6 and mDNS of the pods."
            }
            Self::SourceMacForeign => {
                "The pod sends with a MAC that its interface does not have (a bridge, a nested container): give it its own address."
            }
            Self::DestinationMacForeign => {
                "The sender's neighbour table is old, or the frame was flooded. If it goes on, compare `espalier pods POD` with the branch ENI in EC2."
            }
            Self::SourceAddressForeign => {
                "The pod sends from an address that is not the branch ENI's (docker in the pod, a VPN, a NAT): EC2 would drop it, too. Add the address to the ENI or let the pod use its own."
            }
            Self::DestinationAddressForeign => {
                "Somebody still uses an address that the pod had before, or the snapshot lacks one: compare `espalier pods POD -o json` with the branch ENI in EC2."
            }
            Self::LocalPodGone => "The pod has just gone. Nothing, if it stops.",
            Self::DeniedEgress | Self::DeniedIngress => {
                "`espalier explain POD …` says which rule is nearest, `espalier trace POD …` shows every stage. Add a rule, or be content that it was denied."
            }
            Self::FlowRevoked => {
                "A rule was taken away under a live connection and the pod has `onRuleChange: revoke`. The client must connect anew; `espalier explain` says whether it may."
            }
            Self::FragmentOrphan => {
                "The first fragment was lost or denied: look for its own drop. Smaller packets avoid fragments (EDNS buffer size, MTU)."
            }
            Self::FragmentInvalid => "Overlapping or tiny fragments are an attack or a broken sender.",
            Self::FragmentLimit => {
                "The pod has too many fragmented packets under way, or lost ones still wait: find out why it fragments."
            }
            Self::IcmpErrorUnrelated => {
                "The error is about a connection that is not tracked: it comes late or is forged. Allow ICMP by a rule if it is wanted."
            }
            Self::FlowTableFull => {
                "Raise `--max-flows`, or even out the workers: `espalier pods rebalance`. `espalier flows count` says who has the flows."
            }
            Self::FlowQuota => {
                "One pod holds half of its worker's flows: a scan, a leak, or a busy proxy. `espalier flows count --rule …` says by which rule; raise `--max-flows` if it is meant to."
            }
            Self::GatewayUnresolved => {
                "The subnet's router does not answer ARP or neighbour discovery on the branch: check the VLAN, the subnet, and that the branch is attached to this trunk."
            }
            Self::PodUnresolved => {
                "The pod does not answer ARP or neighbour discovery: look at its interface and its address from inside."
            }
            Self::PortDown => "`espalier pods POD` says why the port is down.",
            Self::PacketTooBig => {
                "The sender ignores the path MTU, or ICMP “too big” does not reach it. Compare MTUs: pod, veth, trunk (`espalier status`)."
            }
            Self::TransmitRingFull => {
                "The receiver does not keep up: for a pod, its program or its CPU limit; for the trunk, the instance's bandwidth. A larger ring (`--ring`) helps with bursts only."
            }
            Self::HandoverRingFull => {
                "The home worker is overloaded: `espalier top` shows it; `espalier pods rebalance`, or more workers."
            }
            Self::MoveQueueFull => {
                "The pod was very busy while it was moved. Nothing: it ends with the move."
            }
            Self::NotHome => {
                "Packets that were under way while a pod moved. If it goes on, it is a bug: report it."
            }
            Self::NoFreeFrame => {
                "All frames are in use: raise `--frames`, and look at the owners in `espalier status`."
            }
        }
    }
}
