//! Why a packet was dropped: one value per packet, its label is the metric label.
//!
//! Made by every stage of the step, counted by `counters`. A new reason is one line in the table below, and one in
//! `advice`; `docs/DROP-REASONS.md` is made of both.

mod advice;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The label in metrics, tables and JSON.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }

            /// What it means, in a sentence or two.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

reasons! {
    /// The frame ends before its Ethernet type.
    FrameTooShort = "frame-too-short",
    /// The sender put a VLAN tag (802.1Q or 802.1ad) of its own into the frame.
    VlanTagFromSender = "vlan-tag-from-sender",
    /// Neither IPv4, IPv6 nor ARP.
    EthertypeUnknown = "ethertype-unknown",
    /// An ARP packet that is malformed or is not from the address it claims.
    ArpInvalid = "arp-invalid",
    /// A neighbour discovery message that is malformed or breaks RFC 4861.
    NeighbourDiscoveryInvalid = "neighbour-discovery-invalid",
    /// Version, header length or total length of the IPv4 header do not fit the frame.
    Ipv4HeaderInvalid = "ipv4-header-invalid",
    /// The IPv4 header checksum is wrong.
    Ipv4ChecksumInvalid = "ipv4-checksum-invalid",
    /// An IPv4 option runs over the header.
    Ipv4OptionsInvalid = "ipv4-options-invalid",
    /// An IPv4 source route or an IPv6 type 0 routing header (RFC 5095).
    SourceRoute = "source-route",
    /// Version or payload length of the IPv6 header do not fit the frame.
    Ipv6HeaderInvalid = "ipv6-header-invalid",
    /// The IPv6 extension headers are truncated, out of order or too many.
    Ipv6ExtensionsInvalid = "ipv6-extensions-invalid",
    /// The TCP header is truncated or its length is wrong.
    TcpHeaderInvalid = "tcp-header-invalid",
    /// The UDP header is truncated.
    UdpHeaderInvalid = "udp-header-invalid",
    /// The ICMP header is truncated.
    IcmpHeaderInvalid = "icmp-header-invalid",
    /// Arrived on the trunk with a VLAN that no pod has.
    VlanUnknown = "vlan-unknown",
    /// Arrived from a port that the current snapshot does not know.
    PortUnknown = "port-unknown",
    /// Sent to a multicast or broadcast address, which a VPC does not carry.
    Multicast = "multicast",
    /// The Ethernet source is not the pod's interface.
    SourceMacForeign = "source-mac-foreign",
    /// The Ethernet destination is not the branch ENI's.
    DestinationMacForeign = "destination-mac-foreign",
    /// The source address is not the pod's (EC2 source/destination check), or cannot be a source.
    SourceAddressForeign = "source-address-foreign",
    /// The destination address is not the pod's (EC2 source/destination check).
    DestinationAddressForeign = "destination-address-foreign",
    /// The steering program took the destination for a local pod, but no such pod is in the snapshot any more.
    LocalPodGone = "local-pod-gone",
    /// No security group rule of the sending pod allows it out.
    DeniedEgress = "denied-egress",
    /// No security group rule of the receiving pod allows it in.
    DeniedIngress = "denied-ingress",
    /// The rules that allowed its flow are gone, and the flow may not outlive them.
    FlowRevoked = "flow-revoked",
    /// A later fragment whose first fragment is not known.
    FragmentOrphan = "fragment-orphan",
    /// A fragment that is too small or overlaps another.
    FragmentInvalid = "fragment-invalid",
    /// The pod has too many fragmented packets under way.
    FragmentLimit = "fragment-limit",
    /// An ICMP error that no live flow explains, where no rule allows it.
    IcmpErrorUnrelated = "icmp-error-unrelated",
    /// The flow table of the worker is full.
    FlowTableFull = "flow-table-full",
    /// The pod has used up its share of the flow table.
    FlowQuota = "flow-quota",
    /// The MAC address of the branch's gateway is not known yet.
    GatewayUnresolved = "gateway-unresolved",
    /// The MAC address of the pod's interface is not known yet.
    PodUnresolved = "pod-unresolved",
    /// The destination pod's port is down.
    PortDown = "port-down",
    /// Larger than the MTU of the port it should leave by.
    PacketTooBig = "packet-too-big",
    /// The transmit ring of the port it should leave by is full: the other side does not keep up.
    TransmitRingFull = "transmit-ring-full",
    /// The ring to the worker that is the pod's home is full: that worker does not keep up.
    HandoverRingFull = "handover-ring-full",
    /// The pod was being moved to another worker, and the queue of packets held for it meanwhile was full.
    MoveQueueFull = "move-queue-full",
    /// Handed to a worker that is not the pod's home any more.
    NotHome = "not-home",
    /// No free frame was left to build a reply or copy in.
    NoFreeFrame = "no-free-frame",
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether it is security groups that deny the packet, and not what it is or what there is room for.
    pub fn is_denial(self) -> bool {
        matches!(
            self,
            Self::DeniedEgress | Self::DeniedIngress | Self::FlowRevoked | Self::IcmpErrorUnrelated
        )
    }

    /// Whether it is the state of the machine that drops the packet: what there is room for, and which neighbours answer.
    pub fn is_of_the_machine(self) -> bool {
        matches!(
            self,
            Self::GatewayUnresolved
                | Self::PodUnresolved
                | Self::PortDown
                | Self::PacketTooBig
                | Self::TransmitRingFull
                | Self::HandoverRingFull
                | Self::MoveQueueFull
                | Self::NotHome
                | Self::NoFreeFrame
                | Self::FlowTableFull
                | Self::FlowQuota
        )
    }

    /// The reason with this label.
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.label() == label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_unique_and_ordered_as_the_discriminants() {
        let labels: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(reason.meaning().ends_with('.'), "{}", reason.label());
        }
    }
}
