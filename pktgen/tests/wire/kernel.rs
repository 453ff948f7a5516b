//! The kernel's own stack as the receiver: it verifies every checksum, and counts what it takes.

use std::collections::HashMap;
use std::time::Duration;

use espalier_lab::netns::NetNs;
use espalier_pktgen::engine::{Engine, Live, Order, Watch};
use espalier_pktgen::frame::Protocol;
use espalier_pktgen::rate::Rate;
use espalier_pktgen::stamp::Run;
use espalier_pktgen::traffic::Traffic;

use crate::site::{Site, until};

/// Frames of the run: a third of each protocol.
const COUNT: u64 = 1200;

#[test]
fn the_stack_takes_every_frame_of_every_protocol_and_family() {
    let site = Site::new(1500);
    site.blue.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
    site.blue.ip("addr add 10.1.0.1/16 dev eth0\naddr add fd01::1/64 dev eth0 nodad").unwrap();
    // Live frames are delivered by NAPI, which GRO brings.
    site.blue.offload("eth0", "gro on").unwrap();
    let mac = site.blue.run(|| espalier_xsk::interface("eth0").unwrap().mac).unwrap();
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    for engine in ["af-xdp", "kernel"] {
        let before = counters(&site.blue);
        let said = site.run(&format!(
            "send RED --engine {engine} --dst-mac {mac} --src 10.1.1.0/26,fd01::100/122 --dst 10.1.0.1,fd01::1 \
             --protocol udp,tcp,icmp --flows 300 --size 101:1,102:1,1400:1 --count {COUNT} --rate 5kpps"
        ));
        assert_eq!((said.code, said.number("/sent/frames")), (0, COUNT), "{}", said.error);
        let mut after = counters(&site.blue);
        let gain = |after: &HashMap<String, u64>, names: &[&str]| -> u64 {
            names.iter().map(|name| after[*name] - before[*name]).sum()
        };
        until("the stack to have taken every frame", || {
            after = counters(&site.blue);
            gain(&after, &["Tcp.InSegs", "Udp.NoPorts", "Udp6NoPorts", "Icmp.InEchos", "Icmp6InEchos"])
                >= COUNT
        });
        assert_eq!(gain(&after, &["Udp.NoPorts", "Udp6NoPorts"]), COUNT / 3);
        assert_eq!(gain(&after, &["Tcp.InSegs"]), COUNT / 3);
        assert_eq!(gain(&after, &["Icmp.InEchos", "Icmp6InEchos"]), COUNT / 3);
        let refused = [
            "Ip.InHdrErrors",
            "Ip6InHdrErrors",
            "Tcp.InCsumErrors",
            "Udp.InCsumErrors",
            "Udp6InCsumErrors",
            "Icmp.InCsumErrors",
            "Icmp6InCsumErrors",
        ];
        assert_eq!(gain(&after, &refused), 0);
    }
}

/// The protocol counters of a namespace: `Group.Name` of IPv4, `NameOfGroup` of IPv6.
fn counters(namespace: &NetNs) -> HashMap<String, u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
    let (v4, v6) = namespace.run(|| (read("snmp"), read("snmp6"))).unwrap();
    let mut all = HashMap::new();
    let lines: Vec<_> = v4.lines().collect();
    for pair in lines.chunks(2) {
        let (group, names) = pair[0].split_once(':').unwrap();
        let (_, values) = pair[1].split_once(':').unwrap();
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            // Tcp.MaxConn is -1.
            all.insert(format!("{group}.{name}"), value.parse().unwrap_or(0));
        }
    }
    for line in v6.lines() {
        let (name, value) = line.split_once(char::is_whitespace).unwrap();
        all.insert(name.to_owned(), value.trim().parse().unwrap());
    }
    all
}

/// One call of the kernel may take a second; the terminal's line does not wait for it.
#[test]
fn what_the_kernel_sends_is_told_while_it_sends() {
    let site = Site::new(1500);
    site.blue.offload("eth0", "gro on").unwrap();
    let traffic = Traffic {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        vlans: Vec::new(),
        sources: vec!["10.1.1.0/26".parse().unwrap()],
        destinations: vec!["10.1.0.1".parse().unwrap()],
        source_ports: "1024".parse().unwrap(),
        destination_ports: "9".parse().unwrap(),
        protocols: vec![(Protocol::Udp, 1)],
        tcp_syn: false,
        v6_percent: 0,
        sizes: "64".parse().unwrap(),
        flows: 10,
        seed: 1,
    };
    let (watch, rate) = (Watch::default(), Rate::Packets(10_000.0));
    let order = Order { run: Run(1), frames: Some(5000), duration: None, rate };
    let (mut told, mut sent) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let send = || {
                let plan = traffic.plan().unwrap();
                let live = Live::new(espalier_xsk::interface("eth0").unwrap(), &plan).unwrap();
                Engine::Live(Box::new(live)).send(&order, &watch).unwrap()
            };
            site.red.run(send).unwrap()
        });
        while !sender.is_finished() {
            told.push(watch.sent());
            std::thread::sleep(Duration::from_millis(5));
        }
        sent = sender.join().unwrap().frames;
    });
    assert_eq!((sent, watch.sent()), (5000, 5000));
    assert!(told.is_sorted() && told.iter().any(|frames| (1..5000).contains(frames)), "{told:?}");
}
