//! The kernel's price for the same: forwarding with nftables on conntrack, less forwarding without.
//!
//! Two network namespaces forward the same 64-byte UDP packets of established flows; only one of them has rules. Packets
//! arrive as live frames, so that receiving, filtering and forwarding all happen on the calling thread and its CPU time
//! is theirs. The outgoing veth's peer is down: packets end where a driver would take them.

use std::cell::RefCell;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::{TestRun, Xdp};
use aya::{Ebpf, EbpfLoader, TestRunAttrs, TestRunOptions};
use espalier_lab::netns::{NetNs, unique_name};
use etherparse::PacketBuilder;

use super::{DIFFERENCE, KERNEL};
use crate::measure::{Quartiles, Subject, nanoseconds_each};
use crate::peer;
use crate::report::Report;

const FLOWS: u32 = 10_000;
const PACKETS: u32 = 100_000;
/// Frames that the kernel receives as one list.
const BATCH: u32 = 64;
/// Bytes of a frame.
const FRAME: usize = 64;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const FIRST_PORT: u16 = 1024;
const SERVICE: u16 = 7;

/// The first rule takes established flows: nothing else is asked of the kernel.
const RULES: &str = "table inet bench {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established accept
    ip daddr 10.78.0.2 udp dport 7 accept
  }
}";

/// The words of `struct order` in forward.bpf.c: the frame, then flows and first port, next flow and port's place.
type Order = [u64; 10];

/// A namespace that forwards.
struct Router {
    namespace: NetNs,
    ebpf: Ebpf,
    orders: Array<MapData, Order>,
}

/// Which way packets go.
#[derive(Clone, Copy)]
enum Way {
    There,
    Back,
}

/// Both kinds of forwarding in turns, and what conntrack and nftables cost: the difference, pair by pair.
pub(super) fn run(report: &mut Report, runs: usize) -> Result<()> {
    let object = peer::compile_bpf("forward.bpf.c").context("the kernel's forwarding cannot be measured")?;
    let mut plain = Router::new(&object)?;
    let mut filtered = Router::new(&object)?;
    filtered.filter()?;
    let without = RefCell::new(Vec::new());
    let mut differences = Vec::new();
    let mut subjects = [
        Subject::new("forwarding", || {
            let each = plain.forward(Way::There, PACKETS)?;
            without.borrow_mut().push(each);
            Ok(each)
        }),
        Subject::new("forwarding, conntrack, nftables", || {
            let each = filtered.forward(Way::There, PACKETS)?;
            differences.extend(without.borrow().last().map(|without| each - without));
            Ok(each)
        }),
    ];
    report.in_turns(KERNEL, &mut subjects, runs)?;
    drop(subjects);
    // The first pair warmed up.
    report.row(KERNEL, DIFFERENCE, "ns", Quartiles::of(differences.split_off(1)));
    Ok(())
}

impl Router {
    fn new(object: &[u8]) -> Result<Self> {
        let namespace = NetNs::create(unique_name("benchflow"))?;
        for (name, network, neighbour) in [("in0", 77, CLIENT), ("out0", 78, SERVER)] {
            namespace.veth(name, &namespace, &format!("{name}-peer"))?;
            namespace.ip(&format!(
                "addr add 10.{network}.0.1/24 dev {name}\nlink set {name} up\n\
                 neigh add {neighbour} lladdr 02:00:00:00:00:{network} dev {name} nud permanent"
            ))?;
        }
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        let mut ebpf = EbpfLoader::new().load(object)?;
        let program: &mut Xdp = ebpf.program_mut("arrive").context("no program `arrive`")?.try_into()?;
        program.load()?;
        let orders = Array::try_from(ebpf.take_map("orders").context("no map `orders`")?)?;
        Ok(Self { namespace, ebpf, orders })
    }

    /// Loads the rules and opens every flow: a packet each way.
    fn filter(&mut self) -> Result<()> {
        let done = self.namespace.output(Command::new("nft").arg(RULES))?;
        ensure!(done.status.success(), "nft refuses the rules: {}", String::from_utf8_lossy(&done.stderr));
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            self.namespace.sysctl(&format!("net/netfilter/{timeout}"), "3600")?;
        }
        for way in [Way::There, Way::Back] {
            self.forward(way, FLOWS)?;
        }
        let count =
            self.namespace.run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))??;
        ensure!(count.trim() == FLOWS.to_string(), "conntrack has {} flows, not {FLOWS}", count.trim());
        Ok(())
    }

    /// Nanoseconds that the kernel spends on each of so many packets; all of them must be forwarded.
    fn forward(&mut self, way: Way, packets: u32) -> Result<f64> {
        let Self { namespace, ebpf, orders } = self;
        let program: &Xdp = ebpf.program("arrive").context("no program `arrive`")?.try_into()?;
        namespace.run(|| {
            let (mac, index) = interface(way)?;
            orders.set(0, order(way, mac)?, 0)?;
            // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            let context = [0, FRAME as u32, 0, index, 0, 0].map(u32::to_ne_bytes).concat();
            let options = TestRunOptions {
                data_in: Some(&[0; FRAME]),
                ctx_in: Some(&context),
                repeat: packets,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            let before = forwarded()?;
            let mut result = Ok(());
            let each = nanoseconds_each(packets as usize, || {
                result = program.test_run(options).map(|_| ());
            });
            result.context("the kernel refuses live frames; it needs Linux 5.18")?;
            let count = forwarded()? - before;
            ensure!(count == u64::from(packets), "the kernel forwarded {count} of {packets} packets");
            Ok(each)
        })?
    }
}

/// MAC and index of the interface that packets arrive at.
fn interface(way: Way) -> Result<([u8; 6], u32)> {
    let name = match way {
        Way::There => "in0",
        Way::Back => "out0",
    };
    let interface = espalier_xsk::interface(name)?;
    Ok((interface.mac, interface.index))
}

/// The frame of a way, and the flows that are made of it.
fn order(way: Way, mac: [u8; 6]) -> Result<Order> {
    let (source, destination, ports, port_at) = match way {
        Way::There => (CLIENT, SERVER, (0, SERVICE), 34),
        Way::Back => (SERVER, CLIENT, (SERVICE, 0), 36),
    };
    let mut frame = Vec::with_capacity(FRAME);
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac)
        .ipv4(source.octets(), destination.octets(), 64)
        .udp(ports.0, ports.1)
        .write(&mut frame, &[0; FRAME - 42])?;
    // No checksum: the kernel would verify it, which a NIC does for it otherwise.
    frame[40..42].fill(0);
    let mut order = Order::default();
    for (word, bytes) in order.iter_mut().zip(frame.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    order[8] = u64::from(FLOWS) | u64::from(FIRST_PORT) << 32;
    order[9] = port_at << 32;
    Ok(order)
}

/// Packets that the thread's namespace has forwarded.
fn forwarded() -> Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = table.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = lines.next().zip(lines.next()).context("/proc/net/snmp has no Ip lines")?;
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let value = pairs.find(|(name, _)| *name == "ForwDatagrams").context("ForwDatagrams is not counted")?.1;
    Ok(value.parse()?)
}
