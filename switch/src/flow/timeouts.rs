//! Idle timeouts of a pod's flows: EC2's three with EC2's ranges, and the ones EC2 does not publish.
//!
//! Made by whoever reads the pod's configuration, given to the table per pod. Sources: EC2 user guide "security group
//! connection tracking", EC2 API `ConnectionTrackingSpecificationRequest`.

use thiserror::Error;

use super::state::Class;
use super::time;

/// Idle timeouts in seconds, each within its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts([u32; Class::COUNT]);

/// A timeout outside its range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name} is {value} s; it must be {least} to {most} s")]
pub struct TimeoutError {
    /// EC2's name of the setting, or ours.
    pub name: &'static str,
    /// What was given.
    pub value: u32,
    /// The least that is allowed.
    pub least: u32,
    /// The most that is allowed.
    pub most: u32,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $with:ident, $get:ident: $class:ident, $name:literal, $least:literal..=$most:literal;)+) => {
        impl Timeouts {
            $(
                $(#[doc = $doc])+
                pub fn $with(mut self, seconds: u32) -> Result<Self, TimeoutError> {
                    if !($least..=$most).contains(&seconds) {
                        return Err(TimeoutError { name: $name, value: seconds, least: $least, most: $most });
                    }
                    self.0[Class::$class as usize] = seconds;
                    Ok(self)
                }

                $(#[doc = $doc])+
                pub fn $get(&self) -> u32 {
                    self.0[Class::$class as usize]
                }
            )+
        }
    };
}

settings! {
    /// EC2 `TcpEstablishedTimeout`: 60 to 432000 s. Half-closed connections have it too: EC2 publishes no other, and a
    /// shorter one would cut long transfers that follow an early FIN.
    with_tcp_established, tcp_established: Established, "TcpEstablishedTimeout", 60..=432_000;
    /// EC2 `UdpTimeout`: one direction, or a single request and response: 30 to 60 s.
    with_udp, udp: Udp, "UdpTimeout", 30..=60;
    /// EC2 `UdpStreamTimeout`: more than one request and response: 60 to 180 s.
    with_udp_stream, udp_stream: UdpStream, "UdpStreamTimeout", 60..=180;
    /// Ours: TCP until packets of both ends have completed the handshake: 5 to 300 s.
    with_tcp_half_open, tcp_half_open: HalfOpen, "tcp-half-open", 5..=300;
    /// Ours: TCP after a FIN from each end: 1 to 300 s.
    with_tcp_closing, tcp_closing: Closing, "tcp-closing", 1..=300;
    /// Ours: TCP after a RST: 1 to 300 s.
    with_tcp_reset, tcp_reset: Reset, "tcp-reset", 1..=300;
    /// Ours: ICMP and ICMPv6: 5 to 300 s.
    with_icmp, icmp: Icmp, "icmp", 5..=300;
    /// Ours: entries of untracked flows, which only make lookup and listing complete: 5 to 300 s.
    with_untracked, untracked: Untracked, "untracked", 5..=300;
}

impl Timeouts {
    /// EC2's defaults, with ours where EC2 publishes none.
    pub const NITRO: Self = Self::defaults(432_000);

    /// The defaults of Nitro v6 instance types: TCP connections idle for 350 s are forgotten.
    pub const NITRO_V6: Self = Self::defaults(350);

    /// Protocols other than TCP, UDP and ICMP: 600 s, fixed by EC2.
    pub fn other(&self) -> u32 {
        self.0[Class::Other as usize]
    }

    const fn defaults(tcp_established: u32) -> Self {
        let mut seconds = [0; Class::COUNT];
        seconds[Class::HalfOpen as usize] = 60;
        seconds[Class::Established as usize] = tcp_established;
        seconds[Class::Closing as usize] = 60;
        seconds[Class::Reset as usize] = 10;
        seconds[Class::Udp as usize] = 30;
        seconds[Class::UdpStream as usize] = 180;
        seconds[Class::Icmp as usize] = 30;
        seconds[Class::Other as usize] = 600;
        seconds[Class::Untracked as usize] = 60;
        // Longer than the pauses between the retransmissions of a TCP that has not given up (RFC 6298: 60 s and more).
        seconds[Class::Revoked as usize] = 600;
        Self(seconds)
    }

    /// The timeouts in ticks, rounded up, in the order of the classes.
    pub(super) fn ticks(&self) -> [u32; Class::COUNT] {
        self.0.map(time::ticks)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::NITRO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_ec2s() {
        assert_eq!(Timeouts::NITRO.tcp_established(), 432_000);
        assert_eq!(Timeouts::NITRO_V6.tcp_established(), 350);
        for timeouts in [Timeouts::NITRO, Timeouts::NITRO_V6] {
            assert_eq!((timeouts.udp(), timeouts.udp_stream(), timeouts.other()), (30, 180, 600));
        }
    }

    /// The fast path of `on_packet` checks no timeout below that.
    #[test]
    fn no_steady_flow_is_over_before_it_counts_as_resting() {
        use super::super::changes::Changes;
        let least = Timeouts::NITRO.with_icmp(5).and_then(|timeouts| timeouts.with_untracked(5)).unwrap();
        for class in [Class::Established, Class::UdpStream, Class::Icmp, Class::Other, Class::Untracked] {
            assert!(least.ticks()[class as usize] > Changes::RESTING);
        }
        assert!(Timeouts::NITRO.with_icmp(4).is_err() && Timeouts::NITRO.with_untracked(4).is_err());
    }

    #[test]
    fn ec2s_ranges_hold_at_both_ends() {
        let timeouts = Timeouts::NITRO;
        assert!(timeouts.with_tcp_established(60).is_ok() && timeouts.with_tcp_established(432_000).is_ok());
        assert!(
            timeouts.with_tcp_established(59).is_err() && timeouts.with_tcp_established(432_001).is_err()
        );
        assert!(timeouts.with_udp(30).is_ok() && timeouts.with_udp(60).is_ok());
        assert!(timeouts.with_udp(29).is_err() && timeouts.with_udp(61).is_err());
        assert!(timeouts.with_udp_stream(60).is_ok() && timeouts.with_udp_stream(180).is_ok());
        assert!(timeouts.with_udp_stream(59).is_err());
        let error = timeouts.with_udp_stream(181).unwrap_err();
        assert_eq!(error.to_string(), "UdpStreamTimeout is 181 s; it must be 60 to 180 s");
    }
}
