//! Proves what came of one probe: the exchange runs on a thread, receiver and drop counters are watched meanwhile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};
use std::{io, panic};

use super::StopOnDrop;
use super::attempt::Attempt;
use super::planned::{Planned, family};
use super::sight::Sight;
use crate::report::Got;
use crate::scenario::{Endpoint, ProbeProtocol};
use crate::{Lab, LabError, interrupt};

/// Longest time for one probe, for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks at the receiver, and between two questions to the switch.
const LOOK_CLOSELY: Duration = Duration::from_micros(500);
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// After a drop was counted: time for a packet that was not dropped to be seen after all.
const SETTLE: Duration = Duration::from_millis(50);

/// After the exchange ended: time for the receiver's packets and the switch's counters to be seen.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Reasons of a drop for want of a rule, out of a pod and into one (`DropReason` of the switch).
const DENIED_OUT: [&str; 2] = ["denied-egress", "icmp-error-unrelated"];
const DENIED_IN: [&str; 2] = ["denied-ingress", "icmp-error-unrelated"];

/// What happened, and in words what was seen.
pub(super) type Proof = (Got, String);

/// Tries the probe once.
pub(super) fn prove(lab: &Lab, planned: &Planned, sight: &Sight) -> Result<Proof, LabError> {
    let kind = planned.kind();
    let (drops, arrived) = (drops(lab, planned)?, sight.count(&kind));
    let called_off = AtomicBool::new(false);
    let attempt = Attempt {
        namespace: lab.topology().namespace(planned.from),
        from: planned.from_address,
        to: planned.to_address,
        called_off: &called_off,
        deadline: Instant::now() + PATIENCE,
    };
    let has_arrived = || sight.count(&kind) > arrived;
    let new_drops = || self::drops(lab, planned).map(|now| now.saturating_sub(drops));
    thread::scope(|scope| {
        let call_off = StopOnDrop(&called_off);
        let exchange = scope.spawn(|| exchange(lab, planned, &attempt));
        let mut ended: Option<Instant> = None;
        let mut asked = Instant::now();
        let denied = loop {
            interrupt::check()?;
            if exchange.is_finished() {
                ended.get_or_insert_with(Instant::now);
            }
            if has_arrived() && (ended.is_some() || planned.is_one_way()) {
                break false;
            }
            if !has_arrived() && asked.elapsed() > ASK_AGAIN {
                asked = Instant::now();
                if new_drops()? > 0 {
                    thread::sleep(SETTLE);
                    if !has_arrived() {
                        break true;
                    }
                }
            }
            let is_over = ended.is_some_and(|ended| ended.elapsed() > CATCH_UP);
            if is_over || Instant::now() > attempt.deadline {
                break false;
            }
            thread::sleep(LOOK_CLOSELY);
        };
        drop(call_off);
        let outcome = exchange.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        Ok(match (denied, has_arrived()) {
            (true, false) => (Got::Deny, "nothing arrived, and the switch counted a drop".into()),
            (_, true) if planned.is_one_way() || outcome.is_ok() => (Got::Allow, "it arrived".into()),
            (_, arrived) => {
                let seen = if arrived { "it arrived" } else { "it did not arrive" };
                let outcome = outcome.err().map_or_else(|| "was answered".into(), |error| error.to_string());
                let dropped = new_drops()?;
                (
                    Got::Unproven,
                    format!("{seen}; the exchange: {outcome}; drops for want of a rule: {dropped}"),
                )
            }
        })
    })
}

/// Packets dropped for want of a rule, out of the source pod and into the destination pod.
fn drops(lab: &Lab, planned: &Planned) -> Result<u64, LabError> {
    let pods = lab.control().pods()?;
    let of = |endpoint: Endpoint| match endpoint {
        Endpoint::Pod(index) => {
            let name = &lab.scenario().pods[index].name;
            pods.iter().find(|pod| pod.name == *name).map(|pod| &pod.counters)
        }
        _ => None,
    };
    let sum = |dropped: &BTreeMap<String, u64>, reasons: [&str; 2]| {
        reasons.iter().filter_map(|reason| dropped.get(*reason)).sum::<u64>()
    };
    let out = of(planned.from).map_or(0, |counters| sum(&counters.egress_dropped, DENIED_OUT));
    let into = of(planned.to).map_or(0, |counters| sum(&counters.ingress_dropped, DENIED_IN));
    Ok(out + into)
}

fn exchange(lab: &Lab, planned: &Planned, attempt: &Attempt) -> io::Result<()> {
    let probe = planned.probe;
    let port = planned.port().unwrap_or_default();
    if let Some(name) = probe.name.as_ref().filter(|_| probe.protocol != ProbeProtocol::Dns) {
        let resolver = lab.scenario().address(Endpoint::Resolver, family(&planned.from_address));
        let to = resolver.ok_or_else(|| io::Error::other("the VPC has no resolver of this family"))?;
        let expected = [planned.to_address];
        Attempt { to, ..*attempt }.resolve(name, family(&planned.to_address), &expected)?;
    }
    match probe.protocol {
        ProbeProtocol::Tcp => attempt.tcp_echo(port),
        ProbeProtocol::Udp => attempt.udp_echo(port),
        ProbeProtocol::Http => attempt.http(port),
        ProbeProtocol::Number(number) => attempt.one_way(number),
        ProbeProtocol::Icmp | ProbeProtocol::Icmpv6 => {
            let (icmp_type, code) = planned.icmp();
            attempt.icmp(icmp_type, code)
        }
        ProbeProtocol::Dns => {
            let name = probe.name.as_deref().unwrap_or_default();
            let addresses = lab.scenario().services().names.remove(name).unwrap_or_default();
            let Some(first) = addresses.first() else {
                return Err(io::Error::other(format!("{name} is no name of this scenario")));
            };
            let expected: Vec<IpAddr> =
                addresses.iter().filter(|address| address.is_ipv4() == first.is_ipv4()).copied().collect();
            attempt.resolve(name, family(first), &expected)
        }
    }
}
