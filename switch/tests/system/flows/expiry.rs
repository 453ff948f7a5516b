//! Idle flows end with EC2's times on the kernel's clock: not before, and what they let through ends with them.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use espalier_api::flows::FlowState;

use super::{FAR6, OUT, all_in, at, scenario, seen};
use crate::site::{FAR, PATIENCE, Site};
use crate::traffic::udp;

/// EC2's idle time of a UDP flow that is no stream, which is also its least.
const UDP: Duration = Duration::from_secs(30);
/// The least that EC2 allows for a stream.
const STREAM: Duration = Duration::from_secs(60);
/// Time beyond an idle time in which a flow must be gone, on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_secs(60);

/// A flow of a pod that may ask and nothing else: both ends, and when it was last heard of.
struct Asked {
    near: UdpSocket,
    far: UdpSocket,
    port: u16,
    since: Instant,
}

impl Asked {
    /// Datagrams there and back, so many times.
    fn times(site: &Site, address: &str, port: u16, times: usize) -> Self {
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let near = udp(site.namespace("t/a").unwrap(), any, PATIENCE);
        let far = udp(site.namespace("far").unwrap(), &at(address, port), PATIENCE);
        near.connect((address, port)).unwrap();
        let mut since = Instant::now();
        for _ in 0..times {
            near.send(b"?").unwrap();
            let (_, asker) = far.recv_from(&mut [0; 8]).unwrap();
            far.connect(asker).unwrap();
            since = Instant::now();
            far.send(b"!").unwrap();
            near.recv(&mut [0; 8]).unwrap();
        }
        Self { near, far, port, since }
    }

    /// Waits until it is forgotten, no sooner than after this time without a packet.
    fn ends_after(&self, site: &Site, idle: Duration) {
        while !seen(site, self.port).is_empty() {
            assert!(self.since.elapsed() < idle + SLACK, "{:?}", seen(site, self.port));
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(self.since.elapsed() >= idle, "gone after {:?}", self.since.elapsed());
    }

    /// Whether an answer reaches the pod.
    fn is_answered(&self, patience: Duration) -> bool {
        self.near.set_read_timeout(Some(patience)).unwrap();
        self.far.send(b"!").unwrap();
        self.near.recv(&mut [0; 8]).is_ok()
    }
}

#[test]
fn udp_flows_and_streams_end_when_they_have_been_idle_and_answers_with_them() {
    let mut site = Site::up(scenario(&[OUT]));
    site.change(|snapshot| {
        for pod in &mut snapshot.pods {
            pod.connection_tracking.udp_timeout = Some(UDP.as_secs() as u32);
            pod.connection_tracking.udp_stream_timeout = Some(STREAM.as_secs() as u32);
        }
    });
    let single = [(FAR, 8601), (FAR6, 8602)].map(|(address, port)| Asked::times(&site, address, port, 1));
    let streams = [(FAR, 8603), (FAR6, 8604)].map(|(address, port)| Asked::times(&site, address, port, 3));
    for (flows, state) in [(&single, FlowState::Udp), (&streams, FlowState::UdpStream)] {
        assert!(flows.iter().all(|flow| all_in(&site, flow.port, state)));
    }
    for flow in &single {
        flow.ends_after(&site, UDP);
    }
    let denied = |site: &Site| site.pod("t/a").counters.ingress_dropped.get("denied-ingress").copied();
    assert_eq!(denied(&site), None);
    for flow in &single {
        assert!(!flow.is_answered(Duration::from_millis(300)), "port {}", flow.port);
    }
    assert_eq!(denied(&site), Some(2));

    for flow in &streams {
        flow.ends_after(&site, STREAM);
    }
    assert_eq!(seen(&site, 8603), []);
    site.assert_balanced();
}
