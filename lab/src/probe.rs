//! Runs a scenario's probes and proves what came of each.
//!
//! *Allow* is proven by an unchanged answer and the packet's arrival in the receiver's namespace. *Deny* is proven by
//! the switch's drop counter of the deciding pod going up while nothing arrived there; a time-out proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crate::packet_socket::PacketSocket;
use crate::report::{Got, ProbeResult, Report};
use crate::scenario::{Endpoint, ProbeProtocol};
use crate::{Lab, LabError, interrupt};
use explained::Explained;
use planned::Planned;
use sight::Sight;

mod attempt;
mod explained;
mod icmp;
mod planned;
mod proof;
mod server;
mod sight;

/// Silence that people notice.
const NOTICED: Duration = Duration::from_secs(1);

/// What each destination received.
type Sights = BTreeMap<Endpoint, Sight>;

impl Lab {
    /// Runs the scenario's probes one after the other, with servers in their destinations.
    pub fn run_probes(&self) -> Result<Report, LabError> {
        let planned = Planned::all(self.scenario())?;
        let explained = explained::ask(self, &planned)?;
        let sights: Sights = planned.iter().map(|planned| (planned.to, Sight::default())).collect();
        let stop = AtomicBool::new(false);
        let probes = thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            self.watch(scope, &sights, &stop)?;
            self.serve(scope, &planned, &stop)?;
            let mut said = Instant::now();
            let mut results = Vec::with_capacity(planned.len());
            for (planned, explained) in planned.iter().zip(explained) {
                interrupt::check()?;
                if said.elapsed() > NOTICED {
                    self.say(&format!("{} of {} probes done", results.len(), results.capacity()));
                    said = Instant::now();
                }
                results.push(self.try_one(planned, explained, &sights[&planned.to])?);
            }
            Ok::<_, LabError>(results)
        })?;
        let passed = probes.iter().filter(|probe| probe.passed).count();
        Ok(Report {
            scenario: self.scenario().name.clone(),
            passed,
            failed: probes.len() - passed,
            probes,
            counters: self.control().status()?.counters,
        })
    }

    fn watch<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        sights: &'scope Sights,
        stop: &'scope AtomicBool,
    ) -> Result<(), LabError> {
        for (endpoint, sight) in sights {
            let packets = PacketSocket::open(self.topology().namespace(*endpoint))?;
            scope.spawn(move || sight.watch(packets, stop));
        }
        Ok(())
    }

    fn serve<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        planned: &[Planned],
        stop: &'scope AtomicBool,
    ) -> Result<(), LabError> {
        let mut served = BTreeSet::new();
        for each in planned {
            let Some(port) = each.probe.port else { continue };
            let is_tcp = each.probe.protocol == ProbeProtocol::Tcp;
            if !served.insert((each.to, each.to_address, is_tcp, port)) {
                continue;
            }
            let namespace = self.topology().namespace(each.to);
            if is_tcp {
                server::tcp(scope, namespace, each.to_address, port, stop)?;
            } else {
                server::udp(scope, namespace, each.to_address, port, stop)?;
            }
        }
        Ok(())
    }

    fn try_one(
        &self,
        planned: &Planned,
        explained: Explained,
        sight: &Sight,
    ) -> Result<ProbeResult, LabError> {
        let probe = planned.probe;
        let start = Instant::now();
        let (got, seen) = proof::prove(self, planned, sight)?;
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        let mut complaints = Vec::new();
        if !got.is(probe.expect) {
            complaints.push(seen);
        }
        if got != Got::Unproven && !got.is(explained.verdict) {
            complaints.push("the switch explains the opposite of what it did".into());
        }
        if let Some(wanted) = probe.rule.as_ref().filter(|wanted| Some(*wanted) != explained.rule.as_ref()) {
            complaints.push(format!("the deciding rule should be {wanted}"));
        }
        let passed = complaints.is_empty();
        complaints.push(explained.reason);
        Ok(ProbeResult {
            from: self.scenario().endpoint_name(planned.from),
            to: self.scenario().endpoint_name(planned.to),
            protocol: probe.protocol.to_string(),
            port: planned.port(),
            expect: probe.expect,
            got,
            rule: explained.rule,
            reason: complaints.join("; "),
            ms: (ms * 100.0).round() / 100.0,
            passed,
            detail: planned.detail(),
        })
    }
}

/// Ends the threads that look at a flag, also when a panic or an early return leaves their scope.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
