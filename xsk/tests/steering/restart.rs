//! What a switch leaves and the next one takes over: after a clean end, after kill -9 under traffic, with maps of
//! another layout, and with interfaces that came and went in between.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use espalier_xsk::{Entrance, Steering, SteeringConfig, SteeringError, Verdict, XdpMode, interface};

use crate::frames::*;
use crate::sandbox::*;
use crate::tap::Tap;

#[test]
fn maps_and_links_are_taken_over_and_the_program_replaced() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let (trunk, _) = veth("node1", "far1");
        let mut steering = open(XdpMode::Auto);
        steering.attach_pod(&node, 5, 100).unwrap();
        steering.attach_trunk(&trunk).unwrap();
        let addresses: [IpAddr; 2] = ["10.0.0.11".parse().unwrap(), "fd00::b".parse().unwrap()];
        for vlan in [1, 100, 4094] {
            steering.set_branch(vlan, true).unwrap();
        }
        for address in addresses {
            steering.set_local_address(address, true).unwrap();
        }
        steering.dry_run(Entrance::Pod, node.index, 0, &ipv4([10, 0, 0, 9], 8)).unwrap();
        let counters = steering.counters().unwrap();
        assert_eq!(counters.pod_no_socket_drop, 1);
        drop(steering);
        let programs = [program_id("node0").unwrap(), program_id("node1").unwrap()];

        let mut steering = open(XdpMode::Auto);
        assert_eq!(steering.recreated(), [""; 0]);
        assert_eq!(steering.branches().iter().copied().collect::<Vec<_>>(), [1, 100, 4094]);
        assert_eq!(steering.local_addresses().iter().copied().collect::<Vec<_>>(), addresses);
        assert_eq!(steering.counters().unwrap(), counters);
        let pods: Vec<_> = steering.pods().map(|pod| (pod.interface, pod.slot, pod.vlan)).collect();
        assert_eq!(pods, [(node.index, 5, 100)]);
        assert_eq!(steering.trunk(), Some((trunk.index, XdpMode::Native)));
        let replaced = [program_id("node0").unwrap(), program_id("node1").unwrap()];
        assert!(replaced[0] != programs[0] && replaced[1] != programs[1], "{programs:?} {replaced:?}");

        assert!(steering.attach_pod(&node, 5, 100).unwrap().adopted);
        assert!(steering.attach_trunk(&trunk).unwrap().adopted);
        assert_eq!([program_id("node0").unwrap(), program_id("node1").unwrap()], replaced);
    });
}

#[test]
fn one_switch_at_a_time() {
    sandbox(|| {
        let first = open(XdpMode::Auto);
        let second = Steering::open(&config(XdpMode::Auto));
        assert!(matches!(second, Err(SteeringError::PinDirectoryBusy { .. })));
        let remove = Steering::remove_pins(&config(XdpMode::Auto).pin_dir);
        assert!(matches!(remove, Err(SteeringError::PinDirectoryBusy { .. })));
        drop(first);
        open(XdpMode::Auto);
    });
}

#[test]
fn the_mode_of_a_pinned_link_is_kept_or_the_conflict_named() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        open(XdpMode::Generic).attach_pod(&node, 0, 9).unwrap();
        let got = open(XdpMode::Auto).attach_pod(&node, 0, 9).unwrap();
        assert!(got.adopted && got.mode == XdpMode::Generic && got.fallback.is_some(), "{got:?}");
        let mut steering = open(XdpMode::Native);
        let refused = steering.attach_pod(&node, 0, 9).unwrap_err();
        assert!(matches!(refused, SteeringError::ModeConflict { .. }), "{refused}");
        assert!(program_id("node0").is_some(), "still steered");
        steering.detach_pod(node.index).unwrap();
        assert_eq!(steering.attach_pod(&node, 0, 9).unwrap().mode, XdpMode::Native);
    });
}

#[test]
fn maps_of_another_layout_are_made_anew_under_running_links() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let mut steering = open(XdpMode::Auto);
        steering.attach_pod(&node, 5, 100).unwrap();
        steering.set_branch(100, true).unwrap();
        drop(steering);

        let larger = SteeringConfig { max_pods: 32, ..config(XdpMode::Auto) };
        let steering = Steering::open(&larger).unwrap();
        assert_eq!(steering.recreated(), ["pods", "pod_sockets"]);
        assert_eq!(steering.branches().len(), 1, "the other maps are kept");
        assert!(program_id("node0").is_some());
        drop(steering);

        // What an older version might have left: under a map's name a map of another kind.
        let maps = larger.pin_dir.join("maps");
        std::fs::rename(maps.join("counters"), maps.join("branch_vlans")).unwrap();
        let mut steering = Steering::open(&larger).unwrap();
        assert_eq!(steering.recreated(), ["branch_vlans"]);
        assert!(steering.branches().is_empty());

        // The program in the link already runs on the new maps.
        let socket = unbound_xdp_socket();
        steering.set_pod_socket(5, &socket).unwrap();
        let run = steering.dry_run(Entrance::Pod, node.index, 0, &ipv4([10, 0, 0, 9], 8)).unwrap();
        assert_eq!(run.verdict, Verdict::Redirect);
        assert!(steering.attach_pod(&node, 5, 100).unwrap().adopted);
        let before = steering.counters().unwrap();
        PacketSocket::new(&interface("pod0").unwrap()).send(&ipv4([10, 0, 0, 9], 8));
        wait_until("the frame to be steered", || {
            gains(&before, &steering.counters().unwrap()) == [("pod_redirected_tagged", 1)]
        });
    });
}

#[test]
fn links_of_vanished_interfaces_are_given_up() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let mut steering = open(XdpMode::Auto);
        steering.attach_pod(&node, 5, 100).unwrap();
        steering.attach_trunk(&veth("node1", "far1").0).unwrap();
        drop(steering);
        ip("link del node0");
        ip("link del node1");
        let steering = open(XdpMode::Auto);
        assert_eq!((steering.pods().count(), steering.trunk()), (0, None));
        let links = std::fs::read_dir(config(XdpMode::Auto).pin_dir.join("links")).unwrap();
        assert_eq!(links.count(), 0);
        let run = steering.dry_run(Entrance::Pod, 1, 0, &ipv4([10, 0, 0, 9], 8)).unwrap();
        assert_eq!(run.verdict, Verdict::Drop);
    });
}

#[test]
fn the_same_index_in_another_namespace_is_another_interface() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        open(XdpMode::Auto).attach_pod(&node, 5, 100).unwrap();
        let bpffs = std::fs::File::open("/sys/fs/bpf").unwrap();
        sandbox(|| {
            // The inner sandbox hides the outer bpffs: reach it through the open directory.
            use std::os::fd::AsRawFd;
            let pin_dir = format!("/proc/self/fd/{}/espalier", bpffs.as_raw_fd()).into();
            let config = SteeringConfig { pin_dir, ..config(XdpMode::Auto) };
            let (twin, _) = veth("node0", "pod0");
            assert_eq!(twin.index, node.index);
            let mut steering = Steering::open(&config).unwrap();
            let got = steering.attach_pod(&twin, 5, 100).unwrap();
            assert!(!got.adopted);
            assert!(program_id("node0").is_some());
        });
    });
}

/// Where the killed switch finds out that it is the one.
const ROLE: &str = "ESPALIER_TEST_SWITCH";

/// The process that will be killed: attaches, fills the slot, tells, and stays.
#[expect(clippy::print_stdout, reason = "how the parent process learns that it may kill")]
fn be_the_switch() -> ! {
    let mut steering = open(XdpMode::Auto);
    let node = interface("node0").unwrap();
    steering.attach_pod(&node, 5, 100).unwrap();
    let tap = Tap::open(&node);
    steering.set_pod_socket(5, &tap.port).unwrap();
    println!("\nsteering");
    loop {
        thread::park();
    }
}

fn start_switch() -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restart::a_killed_switch_fails_closed_and_the_next_takes_over", "--nocapture"])
        .env(ROLE, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.any(|line| line.is_ok_and(|line| line == "steering"));
    assert!(told, "the switch ended early: {:?}", child.wait());
    child
}

#[test]
fn a_killed_switch_fails_closed_and_the_next_takes_over() {
    if std::env::var_os(ROLE).is_some() {
        be_the_switch();
    }
    sandbox(|| {
        let (node, pod) = veth("node0", "pod0");
        let mut child = start_switch();
        let killed = program_id("node0").unwrap();
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let stack = PacketSocket::new(&node);
        thread::scope(|scope| {
            let sender = PacketSocket::new(&pod);
            let (stop, sent) = (&stop, &sent);
            let end = StopOnDrop(stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    sender.send(&ipv4([10, 0, 0, 9], 100));
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            let after = |count: u64| {
                let goal = sent.load(Ordering::Relaxed) + count;
                wait_until("traffic", || sent.load(Ordering::Relaxed) >= goal);
            };
            after(200);
            child.kill().unwrap();
            child.wait().unwrap();
            after(200);
            assert_eq!(program_id("node0"), Some(killed), "the pinned link outlives its maker");
            for _ in 0..20 {
                let mut steering = open(XdpMode::Auto);
                assert!(steering.attach_pod(&node, 5, 100).unwrap().adopted);
                after(50);
            }
            drop(end);
        });
        assert_ne!(program_id("node0"), Some(killed));

        let mut steering = open(XdpMode::Auto);
        let total = sent.load(Ordering::Relaxed);
        let mut counted = 0;
        wait_until("every frame to be counted", || {
            let now = steering.counters().unwrap();
            // The dead switch's socket has left its slot: what came after it was dropped.
            counted = now.pod_redirected_tagged + now.pod_no_socket_drop;
            counted == total
        });
        let now = steering.counters().unwrap();
        assert_eq!(now.values().iter().sum::<u64>(), total, "no other way out was taken: {now:?}");
        assert!(now.pod_no_socket_drop >= 200, "{now:?}");
        assert_eq!(stack.receive(), None, "no frame of the pod came up into the node's stack");

        let mut tap = Tap::open(&node);
        steering.set_pod_socket(5, &tap.port).unwrap();
        PacketSocket::new(&pod).send(&ipv4([10, 0, 0, 9], 8));
        assert_eq!(tap.receive().1, tagged(&ipv4([10, 0, 0, 9], 8), VLAN, 100), "traffic resumes");
        tap.close();
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
