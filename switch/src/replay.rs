//! `espalier-switch replay`: a capture through the same step, offline, against a snapshot; what differs from the record.
//!
//! Started by `espalier replay`. Deterministic: time is the file's, the shard is a fresh one. What cannot be compared is
//! counted and left out: drops for want of room or of a neighbour, and flows that began before the capture did.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;
use espalier_api::filter::{Fate, Headers};
use espalier_api::watch::Record;
use espalier_api::{InputError, PodName, Snapshot, file};
use serde::Serialize;

use crate::flow::PodSlot;
use crate::observe::Sample;
use crate::packet::Fragment;
use crate::reason::DropReason;
use crate::step::From;

mod reader;
mod stage;

use reader::Captured;
use stage::Stage;

/// Take the packets of a capture through a snapshot's rules, offline, and tell what differs from the capture's record.
#[derive(Debug, Parser)]
#[command(name = "espalier replay", after_help = HELP)]
pub struct ReplayArgs {
    /// A pcapng file of `espalier capture`, or a capture of the pod's interface by another program
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The snapshot to judge by
    #[arg(long, value_name = "FILE")]
    snapshot: PathBuf,
    /// The pod whose packets are replayed
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: PodName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str =
    "Exit codes: 0 every verdict is the recorded one (or none was recorded), 1 some differ, 2 bad input.
A flow whose first packet is not in the capture is judged as if it began there; it is counted, not compared.

Examples:
  espalier replay web.pcapng --snapshot node.yaml --pod shop/web-0
  espalier replay web.pcapng --snapshot changed.yaml --pod shop/web-0 --json | jq .differing";

/// The replay could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file, the snapshot or the pod.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Nobody reads.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// What a replay found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    /// Packets of the pod in the file.
    packets: usize,
    /// Of those, packets whose verdict could be compared.
    compared: usize,
    /// Packets of flows that began before the capture.
    begun_before: usize,
    /// Packets whose recorded verdict was not the rules'.
    not_of_rules: usize,
    /// Packets that say no verdict of their own: not of the pod by their addresses, or second records of one packet.
    passed_over: usize,
    /// Packets that were decided otherwise.
    differing: Vec<Judged>,
    /// Every verdict.
    #[serde(skip)]
    verdicts: Vec<Judged>,
}

/// A packet's verdict.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Judged {
    /// Its number in the file.
    frame: usize,
    /// Who to whom.
    packet: String,
    /// What became of it here.
    verdict: String,
    /// What was recorded, where that is something else.
    recorded: Option<String>,
}

/// Replays, and tells. Whether nothing differs.
pub fn run(args: &ReplayArgs, out: &mut impl Write) -> Result<bool, ReplayError> {
    let snapshot = file::load(&args.snapshot)?;
    let mut captured = reader::read(&args.file)?;
    // A capture has what several workers told, each in its own order.
    captured.sort_by_key(|packet| packet.unix_ns);
    let found = Replay::new(&snapshot, &args.pod)?.all(&captured);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &found).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        tell(&found, out)?;
    }
    out.flush()?;
    Ok(found.differing.is_empty())
}

fn tell(found: &Found, out: &mut impl Write) -> io::Result<()> {
    for judged in &found.verdicts {
        let Judged { frame, packet, verdict, recorded } = judged;
        match recorded {
            None => writeln!(out, "  {frame:>6}  {packet}: {verdict}")?,
            Some(recorded) => writeln!(out, "! {frame:>6}  {packet}: {verdict}; recorded: {recorded}")?,
        }
    }
    let Found { packets, compared, begun_before, not_of_rules, passed_over, differing, .. } = found;
    writeln!(out, "{packets} packets, {compared} compared, {} differ", differing.len())?;
    for (count, what) in [
        (begun_before, "of flows that began before the capture: not compared"),
        (not_of_rules, "dropped for want of room or of a neighbour: not compared"),
        (passed_over, "passed over: not the pod's, or recorded twice"),
    ] {
        if *count > 0 {
            writeln!(out, "{count} packets {what}")?;
        }
    }
    Ok(())
}

/// A replay under way.
struct Replay<'a> {
    stage: Stage,
    snapshot: &'a Snapshot,
    pod: (PodSlot, u16),
    /// Both ends of flows whose first packet was in the capture.
    begun: HashSet<Flow>,
    /// What first fragments mean for the later ones, which do not say what flow they are of.
    firsts: HashMap<Datagram, Standing>,
    /// What the workers recorded that packets were handed over to, by the frame as it came there.
    seconds: HashMap<Vec<u8>, VecDeque<&'a Record>>,
    found: Found,
}

/// Whether a recorded verdict can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Compared,
    BegunBefore,
    NotOfRules,
}

/// Source, destination and identification of a packet in fragments.
type Datagram = (Option<(IpAddr, IpAddr)>, u32);

/// Protocol and both ends, whichever sends.
type Flow = (Option<u8>, [Option<(IpAddr, Option<u16>)>; 2]);

impl<'a> Replay<'a> {
    fn new(snapshot: &'a Snapshot, name: &PodName) -> Result<Self, InputError> {
        let slot = snapshot.pods.iter().position(|pod| pod.name == *name);
        let index = slot.ok_or_else(|| {
            InputError::new(
                "--pod",
                format!("{name} is not in the snapshot: `espalier pods` lists those of a switch"),
            )
        })?;
        let pod = (PodSlot(index as u16), snapshot.pods[index].vlan.get());
        let stage = Stage::new(snapshot)?;
        Ok(Self {
            stage,
            snapshot,
            pod,
            begun: HashSet::new(),
            firsts: HashMap::new(),
            seconds: HashMap::new(),
            found: Found::default(),
        })
    }

    fn all(mut self, captured: &'a [Captured]) -> Found {
        for packet in captured {
            if let Some(slot) = self.sender(packet) {
                self.stage.learn(slot, &packet.frame);
            }
            if let Some(record) = packet.record.as_ref().filter(|record| record.handed_over) {
                self.seconds.entry(packet.frame.clone()).or_default().push_back(record);
            }
        }
        self.stage.settle();
        // Fragments wait for their first: what is decided may be an earlier packet.
        let mut waiting: BTreeMap<usize, (&Captured, Vec<u8>)> = BTreeMap::new();
        let packets: Vec<&Captured> = captured.iter().filter(|packet| self.is_of_pod(packet)).collect();
        self.found.packets = packets.len();
        for packet in packets {
            let Some((from, frame)) = self.arrival(packet) else {
                self.found.passed_over += 1;
                continue;
            };
            waiting.insert(packet.number, (packet, frame.clone()));
            for sample in self.stage.step(packet, from, frame) {
                let of = waiting.iter().find(|(_, (_, frame))| *frame == sample.bytes);
                let Some((number, (packet, _))) = of else { continue };
                let (number, packet) = (*number, *packet);
                waiting.remove(&number);
                self.compare(packet, &sample);
            }
        }
        self.found.passed_over += waiting.len();
        self.found
    }

    /// The pod whose port a packet of ours came by.
    fn sender(&self, packet: &Captured) -> Option<PodSlot> {
        let [name, pod] = &packet.interface;
        if packet.record.as_ref()?.vlan.is_some() {
            return None;
        }
        let is = |known: &espalier_api::Pod| {
            known.name.as_str() == pod || known.veth.as_deref().is_some_and(|veth| veth == name)
        };
        self.snapshot.pods.iter().position(is).map(|index| PodSlot(index as u16))
    }

    fn is_of_pod(&self, packet: &Captured) -> bool {
        let (slot, vlan) = self.pod;
        let Some(record) = &packet.record else { return true };
        // What another pod of the node sends to it says so only by its destination.
        let to_pod = || {
            let (_, destination) = Headers::of(&packet.frame).addresses?;
            Some(self.snapshot.pods.get(slot.index())?.addresses.contains(&destination))
        };
        record.vlan == Some(vlan)
            || self.sender(packet) == Some(slot)
            || record.vlan.is_none() && to_pod() == Some(true)
    }

    /// How the packet came to the switch; nothing for what did not, or was recorded before.
    fn arrival(&self, packet: &Captured) -> Option<(From, Vec<u8>)> {
        let Some(record) = &packet.record else {
            return self.stage.told_by_addresses(self.pod.0, &packet.frame);
        };
        if record.outbound || record.handed_over {
            return None;
        }
        if let Some(vlan) = record.vlan {
            return Some((From::Trunk { vlan }, packet.frame.clone()));
        }
        let slot = self.sender(packet)?;
        Some(self.stage.steered(slot, &packet.frame))
    }

    fn compare(&mut self, packet: &Captured, sample: &Sample) {
        let headers = Headers::of(&packet.frame);
        let verdict = self.verdict(sample);
        let mut judged =
            Judged { frame: packet.number, packet: headers.to_string(), verdict, recorded: None };
        if let Some(record) = &packet.record {
            let record = self.whole_record(packet, record);
            match self.standing(&record, &headers, sample) {
                Standing::BegunBefore => self.found.begun_before += 1,
                Standing::NotOfRules => self.found.not_of_rules += 1,
                Standing::Compared => {
                    self.found.compared += 1;
                    if !same(&record, sample) {
                        judged.recorded = Some(recorded(&record));
                        self.found.differing.push(judged.clone());
                    }
                }
            }
        }
        self.found.verdicts.push(judged);
    }

    /// With what the second worker recorded, if the packet was handed over.
    fn whole_record(&mut self, packet: &Captured, record: &Record) -> Record {
        let mut record = record.clone();
        if record.fate == Fate::Forward
            && let Some(second) = self.seconds.get_mut(&stage::handed_over(&packet.frame))
            && let Some(second) = second.pop_front()
        {
            record.legs.extend(second.legs.iter().cloned());
            (record.fate, record.reason) = (second.fate, second.reason.clone());
        }
        record
    }

    fn standing(&mut self, record: &Record, headers: &Headers, sample: &Sample) -> Standing {
        let fragment = sample.parsed.map_or(Fragment::None, |packet| packet.fragment());
        if let Fragment::Part { id, offset: 1.., .. } = fragment
            && let Some(standing) = self.firsts.get(&(headers.addresses, id))
        {
            return *standing;
        }
        let flow = flow(headers);
        let known = record.legs.iter().any(|leg| leg.known);
        let reason = record.reason.as_deref().and_then(DropReason::of_label);
        if !known {
            self.begun.insert(flow);
        }
        let standing = if known && !self.begun.contains(&flow) {
            Standing::BegunBefore
        } else if reason.is_some_and(DropReason::is_of_the_machine) {
            Standing::NotOfRules
        } else {
            Standing::Compared
        };
        if let Fragment::Part { id, .. } = fragment {
            self.firsts.insert((headers.addresses, id), standing);
        }
        standing
    }

    /// In words.
    fn verdict(&self, sample: &Sample) -> String {
        let model = self.stage.tables.judge.model();
        let rules = sample.legs.iter().filter_map(|leg| {
            let key = leg.rule(sample.generation)?;
            let (_, rule) = model.rules().find(|(rule, _)| rule.index() as u32 == key.rule)?;
            rule.id().map(ToString::to_string)
        });
        let rules: String = rules.map(|rule| format!(" {rule}")).collect();
        let reason = sample.end.dropped().map(|reason| format!(" {}", reason.label()));
        format!("{}{}{rules}", sample.end.fate().label(), reason.unwrap_or_default())
    }
}

/// Whether the record ends with the sender's policy, where the receiver's was asked, too.
fn ends_with_the_sender(record: &Record, sample: &Sample) -> bool {
    record.fate == Fate::Forward && record.legs.len() == 1 && sample.legs.len() == 2
}

/// Whether the verdict is the recorded one.
fn same(record: &Record, sample: &Sample) -> bool {
    if ends_with_the_sender(record, sample) {
        return sample.legs.first().is_some_and(|leg| leg.verdict.is_ok());
    }
    let reason = sample.end.dropped().map(|reason| reason.label());
    sample.end.fate() == record.fate && reason == record.reason.as_deref()
}

fn recorded(record: &Record) -> String {
    let rules: String =
        record.legs.iter().filter_map(|leg| leg.rule.as_ref()).map(|rule| format!(" {rule}")).collect();
    let reason = record.reason.as_ref().map(|reason| format!(" {reason}")).unwrap_or_default();
    format!("{}{reason}{rules} (generation {})", record.fate.label(), record.generation)
}

fn flow(headers: &Headers) -> Flow {
    let ports = headers.ports.map_or((None, None), |(from, to)| (Some(from), Some(to)));
    let ends = headers.addresses.map(|(source, destination)| ((source, ports.0), (destination, ports.1)));
    let mut ends = [ends.map(|ends| ends.0), ends.map(|ends| ends.1)];
    ends.sort_unstable();
    (headers.protocols[0], ends)
}
