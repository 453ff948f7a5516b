//! Changes while traffic runs: rules that go, connections that stay or are revoked, a veth that vanishes and returns.

use std::io::{Read, Write};
use std::time::Duration;

use espalier_api::control::PortState;
use espalier_api::snapshot::OnRuleChange;
use espalier_api::{Query, Snapshot, Vlan};
use espalier_lab::Scenario;
use serde_json::json;

use crate::site::{FAR, OPEN, POD_A, Site, growth, is_at_rest, wait_for};
use crate::traffic::{answers, connection, converses, steady, udp, udp_echo};

const UDP: &str = "10.0.1.10:7";
pub(crate) const TCP: &str = "10.0.1.10:8080";

/// What a pod may send that must not begin TCP.
pub(crate) const ONLY_UDP: &str = "udp, FromPort: 0, ToPort: 65535";

/// Pod a lets in UDP 7 from everywhere, which EC2 does not track since all UDP may leave, and TCP 8080 from the host,
/// which it does.
pub(crate) fn scenario(out: &str) -> Scenario {
    let rules = format!("
      - {{SecurityGroupRuleId: sgr-out, IsEgress: true, IpProtocol: {out}, CidrIpv4: 0.0.0.0/0}}
      - {{SecurityGroupRuleId: sgr-udp, IpProtocol: udp, FromPort: 7, ToPort: 7, CidrIpv4: 0.0.0.0/0}}
      - {{SecurityGroupRuleId: sgr-tcp, IpProtocol: tcp, FromPort: 8080, ToPort: 8080, CidrIpv4: 10.0.2.20/32}}
");
    Scenario::parse(&format!("{}{rules}", OPEN.split_once("\n      - ").unwrap().0)).unwrap()
}

fn without(snapshot: &mut Snapshot, rule: &str) {
    let rules = &mut snapshot.security_groups[0].rules;
    let before = rules.len();
    rules.retain(|each| each.id.as_ref().is_none_or(|id| id.as_str() != rule));
    assert_eq!(rules.len(), before - 1);
}

fn is_tracked(site: &Site, protocol: &str, port: u16) -> bool {
    let query =
        json!({"pod": "t/a", "direction": "ingress", "protocol": protocol, "remote": FAR, "port": port});
    let query: Query = serde_json::from_value(query).unwrap();
    site.control().explain(&[query]).unwrap()[0].tracked
}

#[test]
fn an_untracked_flow_ends_with_its_rule() {
    let mut site = Site::up(scenario(ONLY_UDP));
    let _echo = udp_echo(site.namespace("t/a").unwrap(), UDP);
    let socket = udp(site.namespace("far").unwrap(), "0.0.0.0:0", Duration::from_millis(200));
    socket.connect(UDP).unwrap();
    assert!(!is_tracked(&site, "udp", 7) && is_tracked(&site, "tcp", 8080));
    let mut buffer = [0; 64];
    assert!(wait_for(|| socket.send(b"while allowed").is_ok() && socket.recv(&mut buffer).is_ok()));
    while socket.recv(&mut buffer).is_ok() {}

    let before = site.pod("t/a").counters;
    site.change(|snapshot| without(snapshot, "sgr-udp"));
    for _ in 0..10 {
        socket.send(b"no more").unwrap();
    }
    // From the first datagram after the reply on, each is dropped: none is let through, none is unaccounted for.
    let dropped = || growth(&before.ingress_dropped, &site.pod("t/a").counters.ingress_dropped);
    assert!(wait_for(|| dropped().get("flow-revoked") == Some(&10)), "{:?}", dropped());
    assert!(socket.recv(&mut buffer).is_err(), "an answer came: {}", String::from_utf8_lossy(&buffer));
    site.assert_balanced();
}

#[test]
fn a_tracked_connection_outlives_its_rule_and_a_new_one_does_not_begin() {
    let mut site = Site::up(scenario(ONLY_UDP));
    let (mut near, mut far) =
        connection(site.namespace("far").unwrap(), site.namespace("t/a").unwrap(), TCP).unwrap();
    assert!(converses(&mut near, &mut far));
    site.change(|snapshot| without(snapshot, "sgr-tcp"));
    for _ in 0..20 {
        assert!(converses(&mut near, &mut far), "EC2 leaves tracked connections alone");
    }
    assert_new_ones_fail(&site);
}

/// Also where the pod may begin connections itself: what it sends on the revoked one must not open it again.
#[test]
fn a_tracked_connection_is_revoked_where_the_pod_says_so() {
    let mut site = Site::up(scenario("'-1', FromPort: -1, ToPort: -1"));
    site.change(|snapshot| snapshot.pods[0].on_rule_change = OnRuleChange::Revoke);
    let (mut near, mut far) =
        connection(site.namespace("far").unwrap(), site.namespace("t/a").unwrap(), TCP).unwrap();
    assert!(converses(&mut near, &mut far));
    site.change(|snapshot| snapshot.security_groups[0].description = Some("another generation".into()));
    assert!(converses(&mut near, &mut far), "a change that leaves its rule revokes nothing");
    let before = site.pod("t/a").counters;
    site.change(|snapshot| without(snapshot, "sgr-tcp"));
    for end in [&mut near, &mut far] {
        end.write_all(b"no more").unwrap();
    }
    // The kernels send it again and again.
    let revoked = || {
        let now = site.pod("t/a").counters;
        let ingress = growth(&before.ingress_dropped, &now.ingress_dropped);
        let egress = growth(&before.egress_dropped, &now.egress_dropped);
        [ingress, egress].map(|dropped| dropped.get("flow-revoked").copied().unwrap_or_default())
    };
    assert!(wait_for(|| revoked().iter().all(|count| *count >= 3)), "{:?}", revoked());
    for end in [&mut near, &mut far] {
        end.set_nonblocking(true).unwrap();
        assert!(end.read(&mut [0; 64]).is_err(), "bytes of a revoked connection arrived");
    }
    assert_new_ones_fail(&site);
}

fn assert_new_ones_fail(site: &Site) {
    let before = site.pod("t/a").counters;
    let (from, to) = (site.namespace("far").unwrap(), site.namespace("t/a").unwrap());
    let address = TCP.replace("8080", "8081");
    let _listener = to.run(|| std::net::TcpListener::bind(&address)).unwrap().unwrap();
    let patience = Duration::from_millis(500);
    let refused =
        from.run(|| std::net::TcpStream::connect_timeout(&address.parse().unwrap(), patience)).unwrap();
    assert!(refused.is_err());
    let dropped = growth(&before.ingress_dropped, &site.pod("t/a").counters.ingress_dropped);
    assert!(dropped.contains_key("denied-ingress"), "{dropped:?}");
}

#[test]
fn a_vanished_veth_takes_the_port_down_and_a_new_one_up() {
    let site = Site::open();
    let echo = udp_echo(site.namespace("far").unwrap(), &format!("{FAR}:7"));
    let (a, to) = (site.namespace("t/a").unwrap(), format!("{FAR}:7"));
    assert!(answers(a, "0.0.0.0:0", &to, b"before"));
    let frames = site.assert_balanced().frames;
    let veth = site.scenario().host_veth(0);
    let node = site.namespace("node").unwrap();
    node.ip(&format!("link del {veth}")).unwrap();
    let state = || site.pod("t/a").state;
    assert!(wait_for(|| matches!(state(), PortState::Down(_))), "{:?}", state());
    let PortState::Down(reason) = state() else { panic!("it came back by itself") };
    assert!(reason.contains(&veth) || reason.contains("veth"), "{reason}");
    assert!(
        site.status().problems.iter().any(|problem| problem.contains("t/a")),
        "{:?}",
        site.status().problems
    );
    assert_eq!(site.pod("t/b").state, PortState::Up);
    let less = site.assert_balanced().frames;
    assert!(less.fill < frames.fill && less.total == frames.total, "{frames:?} {less:?}");

    node.ip(&format!("link add name {veth} type veth peer name eth0 netns {}\nlink set {veth} up", a.name()))
        .unwrap();
    a.ip(&format!(
        "link set eth0 up\naddr add {POD_A}/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0"
    ))
    .unwrap();
    assert!(wait_for(|| state() == PortState::Up), "{:?}", state());
    assert!(answers(a, "0.0.0.0:0", &to, b"after"));
    drop(echo);
    assert_eq!(site.status().problems, Vec::<String>::new());
    // The new port may have been given more or less to begin with than the old one.
    let restored = |now: espalier_api::control::Frames| now.fill > less.fill && is_at_rest(&now);
    assert!(wait_for(|| restored(site.status().frames)), "{frames:?} {:?}", site.status().frames);
    site.assert_balanced();
}

#[test]
fn links_that_go_down_and_up_again_carry_on() {
    let site = Site::open();
    let _echo = udp_echo(site.namespace("far").unwrap(), &format!("{FAR}:7"));
    let (a, to) = (site.namespace("t/a").unwrap(), format!("{FAR}:7"));
    let node = site.namespace("node").unwrap();
    for interface in ["trunk0".to_owned(), site.scenario().host_veth(0)] {
        assert!(answers(a, "0.0.0.0:0", &to, b"before"));
        node.ip(&format!("link set {interface} down")).unwrap();
        // Whoever watches interfaces sees this one change.
        let shown = node.ip_show(&format!("link show dev {interface}")).unwrap();
        assert!(!shown.contains("UP"), "{shown}");
        node.ip(&format!("link set {interface} up")).unwrap();
        assert!(answers(a, "0.0.0.0:0", &to, b"after"), "through {interface}");
    }
    assert_eq!(site.status().problems, Vec::<String>::new());
    site.assert_balanced();
}

#[test]
fn a_branch_that_moves_to_another_vlan_is_closed_on_the_old_one() {
    let mut site = Site::open();
    let to = format!("{FAR}:7");
    let _echo = udp_echo(site.namespace("far").unwrap(), &to);
    let other = steady(site.namespace("t/b").unwrap(), "0.0.0.0:0", &to);
    assert!(answers(site.namespace("t/a").unwrap(), "0.0.0.0:0", &to, b"before"));
    let home = site.snapshot.pods[0].vlan;
    // The VPC has no branch there, so nothing comes back and the gateway is not found.
    site.change(|snapshot| snapshot.pods[0].vlan = Vlan::new(77).unwrap());
    let before = site.status().steering;
    let socket = udp(site.namespace("far").unwrap(), "0.0.0.0:0", Duration::from_millis(200));
    let closed = || {
        socket.send_to(b"to the old VLAN", UDP).unwrap();
        growth(&before, &site.status().steering)
            .get("trunk-unknown-vlan-pass")
            .is_some_and(|count| *count >= 5)
    };
    assert!(wait_for(closed), "{:?}", growth(&before, &site.status().steering));
    assert_eq!(site.pod("t/a").counters.tx, 0);
    site.change(|snapshot| snapshot.pods[0].vlan = home);
    assert!(answers(site.namespace("t/a").unwrap(), "0.0.0.0:0", &to, b"after"));
    let other = other.stop();
    assert!(other.sent > 0 && other.answered == other.sent, "{other:?}");
    site.assert_balanced();
}
