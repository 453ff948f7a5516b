//! A lab with the switch under test, and what tests ask of it: change the snapshot, wait for a condition, balance.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use espalier_api::Snapshot;
use espalier_api::control::{Applied, Counters, Frames, PodStatus, Status};
use espalier_lab::{Lab, Options, Scenario};
use rustix::process::{Pid, Signal, kill_process};

/// The longest wait for anything, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Workers of the switch, and queues of the trunk: `system_two_workers` is this suite once more, with two.
pub(crate) const WORKERS: u16 =
    if matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"system_two_workers") { 2 } else { 1 };

/// The program under test.
pub(crate) const SWITCH: &str = env!("CARGO_BIN_EXE_espalier-switch");

/// Two pods that may do anything, a host, both families.
pub(crate) const OPEN: &str = "
name: open
vpc: {cidrs: [10.0.0.0/16, '2001:db8:1::/56']}
subnets:
  - {name: nodes, cidrs: [10.0.0.0/24, '2001:db8:1::/64']}
  - {name: pods, cidrs: [10.0.1.0/24, '2001:db8:1:1::/64']}
  - {name: data, cidrs: [10.0.2.0/24, '2001:db8:1:2::/64']}
node: {subnet: nodes, addresses: [10.0.0.10, '2001:db8:1::10']}
hosts:
  - {name: far, subnet: data, addresses: [10.0.2.20, '2001:db8:1:2::20']}
pods:
  - {name: t/a, subnet: pods, addresses: [10.0.1.10, '2001:db8:1:1::10'], securityGroups: [sg-open]}
  - {name: t/b, subnet: pods, addresses: [10.0.1.11, '2001:db8:1:1::11'], securityGroups: [sg-open]}
securityGroups:
  - groupId: sg-open
    rules:
      - {SecurityGroupRuleId: sgr-out4, IsEgress: true, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}
      - {SecurityGroupRuleId: sgr-out6, IsEgress: true, IpProtocol: '-1', CidrIpv6: '::/0'}
      - {SecurityGroupRuleId: sgr-in4, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}
      - {SecurityGroupRuleId: sgr-in6, IpProtocol: '-1', CidrIpv6: '::/0'}
";

/// Addresses in [`OPEN`].
pub(crate) const POD_A: &str = "10.0.1.10";
/// Of the second pod.
pub(crate) const POD_B: &str = "10.0.1.11";
/// Of the host.
pub(crate) const FAR: &str = "10.0.2.20";

/// A lab whose switch runs; gone on drop.
pub(crate) struct Site {
    lab: Lab,
    /// What was applied last.
    pub(crate) snapshot: Snapshot,
}

impl Deref for Site {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

impl Site {
    /// The network and the switch, without a snapshot yet.
    pub(crate) fn idle(scenario: Scenario, mtu: Option<u32>, flags: &[&str]) -> Self {
        Self::with_queues(scenario, mtu, WORKERS, flags)
    }

    /// The same with so many queues of the trunk.
    pub(crate) fn with_queues(
        scenario: Scenario,
        mtu: Option<u32>,
        trunk_queues: u16,
        flags: &[&str],
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sy{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = Options { name: name.parse().unwrap(), mtu, trunk_queues, ..Options::default() };
        let snapshot = scenario.snapshot().unwrap();
        let lab = Lab::network(&options, scenario).unwrap_or_else(|error| panic!("{error}"));
        let mut site = Self { lab, snapshot };
        site.start_switch_again(flags);
        site
    }

    /// The scenario's snapshot is enforced.
    pub(crate) fn up(scenario: Scenario) -> Self {
        let site = Self::idle(scenario, None, &[]);
        site.apply_snapshot();
        site
    }

    /// [`OPEN`], enforced.
    pub(crate) fn open() -> Self {
        Self::up(Scenario::parse(OPEN).unwrap())
    }

    /// Has the snapshot name the pods' namespaces instead of the host's ends of their veths.
    pub(crate) fn name_by_namespace(&mut self) {
        for pod in &mut self.snapshot.pods {
            pod.veth = None;
            pod.netns = Some(self.lab.namespace(pod.name.as_str()).unwrap().path());
        }
    }

    /// Starts the program, with [`WORKERS`] workers unless the flags say another number; of a lab whose switch ended.
    pub(crate) fn start_switch_again(&mut self, flags: &[&str]) {
        let workers = WORKERS.to_string();
        let flags: Vec<OsString> = ["--workers", &workers].iter().chain(flags).map(OsString::from).collect();
        let program = PathBuf::from(SWITCH);
        self.lab.start_switch(&program, &flags, "info").unwrap_or_else(|error| panic!("{error}"));
    }

    /// Has the switch end, and waits until it has.
    #[track_caller]
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        let process = self.lab.switch_process().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
        let ended = wait_for(|| process.try_wait().unwrap().is_some());
        if !ended {
            process.kill().unwrap();
        }
        let status = process.wait().unwrap();
        assert!(ended, "{signal:?} does not end the switch");
        status
    }

    /// Applies what is the desired state now; every pod must come up.
    #[track_caller]
    pub(crate) fn apply_snapshot(&self) -> Applied {
        let applied = self.control().apply(&self.snapshot).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(applied.warnings, Vec::<String>::new());
        applied
    }

    /// Applies the next generation.
    #[track_caller]
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Snapshot)) -> Applied {
        self.snapshot.generation.0 += 1;
        change(&mut self.snapshot);
        self.apply_snapshot()
    }

    /// The switch's own account.
    pub(crate) fn status(&self) -> Status {
        self.control().status().unwrap()
    }

    /// One pod's account.
    pub(crate) fn pod(&self, name: &str) -> PodStatus {
        let pods = self.control().pods().unwrap();
        pods.into_iter().find(|pod| pod.name.as_str() == name).unwrap()
    }

    /// Waits until nothing is under way, and checks that every packet ended in a counter and every frame has an owner.
    #[track_caller]
    pub(crate) fn assert_balanced(&self) -> Status {
        let mut last = self.status();
        let balanced = wait_for(|| {
            let status = self.status();
            let quiet = status.counters == last.counters && status.frames == last.frames;
            last = status;
            quiet && adds_up(&last) && is_whole(&last.frames)
        });
        assert!(balanced, "not balanced: {:?} {:?}", last.counters, last.frames);
        last
    }
}

/// `rx == forwarded + Σ dropped + consumed`, over all workers, and with what they hand over also for each.
fn adds_up(status: &Status) -> bool {
    let each =
        |counters: &Counters| counters.rx + counters.handed_in == counters.accounted() + counters.handed_out;
    status.counters.rx == status.counters.accounted()
        && status.workers.iter().all(|worker| each(&worker.counters))
}

/// Whether the owners' frames are all frames.
fn is_whole(frames: &Frames) -> bool {
    let Frames { free, fill, rx, worker, tx, total } = *frames;
    free + fill + rx + worker + tx == total
}

/// Whether no frame is under way: ports that were busy may keep more of them to receive into than before.
pub(crate) fn is_at_rest(frames: &Frames) -> bool {
    frames.free + frames.fill == frames.total
}

/// What was counted between two looks, by label, without zeroes.
pub(crate) fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = after.iter().map(|(label, now)| (label.clone(), now - before.get(label).unwrap_or(&0)));
    grown.filter(|(_, count)| *count > 0).collect()
}

/// Looks until it holds, or for as long as anybody would wait.
pub(crate) fn wait_for(holds: impl FnMut() -> bool) -> bool {
    espalier_lab::wait_for(PATIENCE, holds)
}
