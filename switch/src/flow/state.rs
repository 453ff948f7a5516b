//! The states of a flow, what a packet does to them, and the aging class each belongs to.
//!
//! Pure; called by the table for every packet. EC2 publishes no TCP state machine, so this one is ours: it follows the
//! flags of both ends and no sequence numbers. A forged RST therefore does not end a connection at once: traffic of
//! both ends after it proves that it was not believed, and the connection counts as established again.

use espalier_api::protocol::{ICMP, ICMPV6, TCP, UDP};
use espalier_api::rule::Direction;

/// TCP flag bits (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

use tcp_flag::{ACK, FIN, RST, SYN};

/// What is known of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowState {
    /// TCP: the initiator's SYN was seen.
    SynSent,
    /// TCP: the other end has answered with a SYN of its own.
    SynReceived,
    /// TCP: first seen in mid-stream; nothing from the other end yet.
    PickedUp,
    /// TCP: both ends take part.
    Established,
    /// TCP: one end has sent its FIN; the other may go on for as long as an established connection.
    HalfClosed,
    /// TCP: both ends have sent a FIN.
    Closing,
    /// TCP: an end has sent a RST.
    Reset,
    /// UDP: one direction, or a single request and response.
    Udp,
    /// UDP: more than one request and response.
    UdpStream,
    /// ICMP or ICMPv6.
    Icmp,
    /// Any other protocol.
    Other,
    /// Untracked: each direction is allowed by a rule for every address; the entry only saves the search for it.
    Untracked,
    /// The rules that allowed it are gone: its packets are dropped, so that neither end's next one begins it anew.
    Revoked,
}

/// The timeout and the queue an entry is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    HalfOpen,
    Established,
    Closing,
    Reset,
    Udp,
    UdpStream,
    Icmp,
    Other,
    Untracked,
    Revoked,
}

impl Class {
    pub(super) const ALL: [Self; 10] = [
        Self::HalfOpen,
        Self::Established,
        Self::Closing,
        Self::Reset,
        Self::Udp,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
        Self::Untracked,
        Self::Revoked,
    ];
    pub(super) const COUNT: usize = Self::ALL.len();
}

impl FlowState {
    /// Every state.
    pub const ALL: [Self; 13] = [
        Self::SynSent,
        Self::SynReceived,
        Self::PickedUp,
        Self::Established,
        Self::HalfClosed,
        Self::Closing,
        Self::Reset,
        Self::Udp,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
        Self::Untracked,
        Self::Revoked,
    ];

    /// Whether a packet with these flags surely changes nothing, unless the flow has rested for long.
    #[inline]
    pub(super) fn is_steady(self, flags: u8) -> bool {
        const STEADY: u32 = 1 << FlowState::Established as u32
            | 1 << FlowState::UdpStream as u32
            | 1 << FlowState::Icmp as u32
            | 1 << FlowState::Other as u32
            | 1 << FlowState::Untracked as u32;
        STEADY >> self as u32 & 1 != 0 && flags & (SYN | FIN | RST) == 0
    }

    /// The aging class.
    #[inline]
    pub(super) fn class(self) -> Class {
        match self {
            Self::SynSent | Self::SynReceived | Self::PickedUp => Class::HalfOpen,
            Self::Established | Self::HalfClosed => Class::Established,
            Self::Closing => Class::Closing,
            Self::Reset => Class::Reset,
            Self::Udp => Class::Udp,
            Self::UdpStream => Class::UdpStream,
            Self::Icmp => Class::Icmp,
            Self::Other => Class::Other,
            Self::Untracked => Class::Untracked,
            Self::Revoked => Class::Revoked,
        }
    }

    /// The state of a tracked flow whose first packet carries `flags`.
    pub(super) fn first(protocol: u8, flags: u8) -> Self {
        match protocol {
            TCP if flags & RST != 0 => Self::Reset,
            TCP if flags & (SYN | ACK | FIN) == SYN => Self::SynSent,
            TCP => Self::PickedUp,
            UDP => Self::Udp,
            ICMP | ICMPV6 => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// The state of a flow that was untracked or revoked and is tracked from now on, by what it has carried so far.
    pub(super) fn adopted(protocol: u8, packets: [u64; 2], marks: Marks) -> Self {
        match Self::first(protocol, ACK) {
            Self::PickedUp if packets[0] > 0 && packets[1] > 0 => marks.connected(),
            Self::Udp if packets[0] > 1 && packets[1] > 1 => Self::UdpStream,
            state => state,
        }
    }
}

/// Yes-or-no facts about a flow, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks(u8);

impl Marks {
    /// The marks of a free entry.
    pub(super) const NONE: Self = Self(0);

    const EGRESS_INITIATOR: u8 = 1;
    const REVOKE: u8 = 1 << 1;
    const PICKED_UP: u8 = 1 << 2;
    const FIN: u8 = 1 << 3;
    const ALIVE: u8 = 1 << 5;

    pub(super) fn new(initiator: Direction, revoke: bool, picked_up: bool) -> Self {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        Self(
            bit(initiator == Direction::Egress, Self::EGRESS_INITIATOR)
                | bit(revoke, Self::REVOKE)
                | bit(picked_up, Self::PICKED_UP),
        )
    }

    #[inline]
    pub(super) fn initiator(self) -> Direction {
        if self.0 & Self::EGRESS_INITIATOR != 0 { Direction::Egress } else { Direction::Ingress }
    }

    /// The flow is judged again when the rules change.
    #[inline]
    pub(super) fn revoke(self) -> bool {
        self.0 & Self::REVOKE != 0
    }

    pub(super) fn set_revoke(&mut self, revoke: bool) {
        self.0 = self.0 & !Self::REVOKE | if revoke { Self::REVOKE } else { 0 };
    }

    /// The flow was first seen in mid-stream.
    pub(super) fn picked_up(self) -> bool {
        self.0 & Self::PICKED_UP != 0
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    pub(super) fn has_fin(self, direction: Direction) -> bool {
        self.0 & Self::FIN << direction as u8 != 0
    }

    fn set_fin(&mut self, direction: Direction) {
        self.0 |= Self::FIN << direction as u8;
    }

    /// What a connection with two live ends is, by the FINs seen.
    fn connected(self) -> FlowState {
        match self.0 >> 3 & 3 {
            0 => FlowState::Established,
            3 => FlowState::Closing,
            _ => FlowState::HalfClosed,
        }
    }

    fn forget_alive(&mut self) {
        self.0 &= !(3 * Self::ALIVE);
    }

    /// Notes traffic after a RST; whether both ends have now shown some.
    fn alive(&mut self, direction: Direction) -> bool {
        self.0 |= Self::ALIVE << direction as u8;
        self.0 >> 5 & 3 == 3
    }
}

/// What a TCP packet with `flags` makes of a flow in `state`; nothing if it opens a new connection on the ports of one
/// that has ended.
pub(super) fn tcp(state: FlowState, marks: &mut Marks, direction: Direction, flags: u8) -> Option<FlowState> {
    if flags & RST != 0 {
        if state != FlowState::Reset {
            marks.forget_alive();
        }
        return Some(FlowState::Reset);
    }
    let syn = flags & SYN != 0;
    let ack = flags & ACK != 0;
    let forward = direction == marks.initiator();
    if syn && !ack && matches!(state, FlowState::Closing | FlowState::Reset) {
        return None;
    }
    if flags & FIN != 0 && !matches!(state, FlowState::SynSent) {
        marks.set_fin(direction);
    }
    Some(match state {
        // A SYN without ACK from the other end is the simultaneous open of RFC 9293 section 3.5.
        FlowState::SynSent if syn && !forward => FlowState::SynReceived,
        FlowState::SynReceived if ack && forward => marks.connected(),
        FlowState::PickedUp if !forward => marks.connected(),
        FlowState::Established | FlowState::HalfClosed => marks.connected(),
        FlowState::Reset if !syn && marks.alive(direction) => marks.connected(),
        state => state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Egress, Ingress};

    /// Runs packets over a connection the pod opens; the states after each.
    fn run(packets: &[(Direction, u8)]) -> Vec<Option<FlowState>> {
        let first = FlowState::first(TCP, packets[0].1);
        let mut marks = Marks::new(packets[0].0, false, first == FlowState::PickedUp);
        let mut state = first;
        let mut states = vec![Some(first)];
        for (direction, flags) in &packets[1..] {
            let after = tcp(state, &mut marks, *direction, *flags);
            states.push(after);
            state = after.unwrap_or(state);
        }
        states
    }

    #[test]
    fn states_and_classes_are_in_the_order_of_their_numbers() {
        for (number, state) in FlowState::ALL.iter().enumerate() {
            assert_eq!(*state as usize, number, "{state:?}");
        }
        for (number, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, number);
        }
    }

    #[test]
    fn a_connection_opens_and_closes() {
        use FlowState::*;
        let states = run(&[
            (Egress, SYN),
            (Egress, SYN),
            (Ingress, SYN | ACK),
            (Ingress, SYN | ACK),
            (Egress, ACK),
            (Egress, SYN),
            (Egress, FIN | ACK),
            (Ingress, ACK),
            (Ingress, FIN | ACK),
            (Egress, ACK),
            (Ingress, SYN),
        ]);
        let expected = [
            SynSent,
            SynSent,
            SynReceived,
            SynReceived,
            Established,
            Established,
            HalfClosed,
            HalfClosed,
            Closing,
            Closing,
        ];
        assert_eq!(states[..10], expected.map(Some));
        assert_eq!(states[10], None, "a SYN on a closed connection is a new one");
    }

    #[test]
    fn both_ends_may_open_at_once() {
        let states = run(&[(Egress, SYN), (Ingress, SYN), (Ingress, SYN | ACK), (Egress, SYN | ACK)]);
        assert_eq!(states[1], Some(FlowState::SynReceived));
        assert_eq!(states[3], Some(FlowState::Established));
    }

    #[test]
    fn a_challenge_ack_does_not_complete_a_handshake() {
        let states = run(&[(Egress, SYN), (Ingress, ACK), (Egress, ACK)]);
        assert_eq!(states[2], Some(FlowState::SynSent));
    }

    #[test]
    fn mid_stream_traffic_is_established_when_the_other_end_answers() {
        let states = run(&[(Egress, ACK), (Egress, ACK), (Ingress, ACK)]);
        assert_eq!(states, [FlowState::PickedUp, FlowState::PickedUp, FlowState::Established].map(Some));
        let states = run(&[(Egress, FIN | ACK), (Egress, FIN | ACK), (Ingress, ACK), (Ingress, FIN | ACK)]);
        assert_eq!(states[2..], [FlowState::HalfClosed, FlowState::Closing].map(Some));
    }

    #[test]
    fn a_reset_holds_unless_both_ends_go_on() {
        let open = [(Egress, SYN), (Ingress, SYN | ACK), (Egress, ACK)];
        let after = |rest: &[(Direction, u8)]| *run(&[&open, rest].concat()).last().unwrap();
        assert_eq!(after(&[(Ingress, RST)]), Some(FlowState::Reset));
        assert_eq!(after(&[(Ingress, RST), (Egress, ACK), (Egress, ACK)]), Some(FlowState::Reset));
        assert_eq!(after(&[(Ingress, RST), (Egress, ACK), (Ingress, ACK)]), Some(FlowState::Established));
        assert_eq!(after(&[(Ingress, RST), (Egress, SYN)]), None);
        let twice = [(Ingress, RST), (Egress, ACK), (Ingress, ACK), (Ingress, RST), (Egress, ACK)];
        assert_eq!(after(&twice), Some(FlowState::Reset), "the second RST needs new proof");
    }

    #[test]
    fn a_refused_connection_is_reset() {
        assert_eq!(run(&[(Egress, SYN), (Ingress, RST | ACK)])[1], Some(FlowState::Reset));
    }
}
