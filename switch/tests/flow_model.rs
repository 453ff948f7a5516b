//! The flow table against a reference model: a plain map and a clock, with TCP told by facts instead of transitions.
//!
//! Random packets, time, rule changes, sweeps and removals; after each the two must agree on outcome and on every flow.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::rule::Direction::{self, Egress, Ingress};
use espalier_switch::flow::tcp_flag::{ACK, FIN, RST, SYN};
use espalier_switch::flow::{
    Accounts, FlowConfig, FlowKey, FlowState, FlowTable, Found, Judgement, Lookups, NewFlow, Now, Outcome,
    PacketFacts, PodSlot, PoolConfig, Refused, RuleCounts, RuleKey, Timeouts,
};
use proptest::prelude::*;

const PODS: u16 = 3;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What may happen to the table.
#[derive(Debug, Clone)]
enum Event {
    /// A packet of flow `flow` of pod `slot`, with these TCP flags if it is TCP.
    Packet { slot: u16, flow: u8, direction: Direction, flags: u8 },
    /// Time passes, in milliseconds.
    Wait(u64),
    /// The rules change.
    Generation,
    /// The worker sweeps, with this budget.
    Sweep(usize),
    /// The pod goes.
    RemovePod(u16),
    /// The pod gets other timeouts.
    Timeouts(u16, bool),
    /// The pod's flows are taken out, and come back as from another worker.
    Move(u16),
    /// So many entries more are added up for the rules' counts.
    AddUp(u32),
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Egress), Just(Ingress)]
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => Just(SYN),
        3 => Just(SYN | ACK),
        6 => Just(ACK),
        2 => Just(FIN | ACK),
        1 => Just(RST),
        1 => Just(RST | ACK),
        1 => any::<u8>(),
    ]
}

fn tcp_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (direction(), flags())
            .prop_map(|(direction, flags)| Event::Packet { slot: 0, flow: 0, direction, flags }),
        1 => (9_500_u64..11_000).prop_map(Event::Wait),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let seconds =
        prop_oneof![0_u64..2, 9_u64..12, 29_u64..32, 59_u64..62, 179_u64..182, 349_u64..352, 599_u64..602];
    prop_oneof![
        24 => (0..PODS, 0_u8..6, direction(), flags())
            .prop_map(|(slot, flow, direction, flags)| Event::Packet { slot, flow, direction, flags }),
        6 => (seconds, 0_u64..1000).prop_map(|(seconds, rest)| Event::Wait(seconds * 1000 + rest)),
        1 => Just(Event::Generation),
        2 => (0_usize..40).prop_map(Event::Sweep),
        1 => (0..PODS).prop_map(Event::RemovePod),
        1 => (0..PODS, any::<bool>()).prop_map(|(slot, short)| Event::Timeouts(slot, short)),
        1 => (0..PODS).prop_map(Event::Move),
        6 => (1_u32..20).prop_map(Event::AddUp),
    ]
}

/// Six flows a pod: TCP, UDP, ICMP echo asked from either end, GRE; two of them IPv6.
fn key(slot: u16, flow: u8) -> FlowKey {
    let slot = PodSlot(slot);
    let (local, remote): (IpAddr, IpAddr) = match flow % 3 {
        2 => (Ipv6Addr::from_bits(1).into(), Ipv6Addr::from_bits(2).into()),
        _ => (Ipv4Addr::from_bits(1).into(), Ipv4Addr::from_bits(2).into()),
    };
    match flow {
        0 => FlowKey::tcp_udp(slot, local, remote, TCP, 1000, 80),
        1 => FlowKey::tcp_udp(slot, local, remote, UDP, 1000, 53),
        2 => FlowKey::tcp_udp(slot, local, remote, TCP, 80, 1000),
        3 => FlowKey::query(slot, local, remote, 1, (8, 5), Egress).expect("a request"),
        4 => FlowKey::query(slot, local, remote, 1, (8, 5), Ingress).expect("a request"),
        _ => FlowKey::addresses_only(slot, local, remote, 47),
    }
}

/// The rules of a generation: some function of generation and flow that allows, denies, tracks and revokes.
fn rules(generation: u32, key: &FlowKey, direction: Direction) -> Option<Judgement> {
    let dice =
        (generation * 7 + u32::from(key.slot().0) * 3 + u32::from(key.protocol()) + direction as u32) % 8;
    let stateless = matches!(key.protocol(), TCP | UDP) && dice < 3;
    (dice != 7).then_some(Judgement {
        rule: dice,
        generation,
        tracked: !stateless,
        revoke_on_change: dice == 4,
    })
}

/// One flow of the model.
#[derive(Debug, Clone)]
struct Flow {
    initiator: Direction,
    judgement: Judgement,
    last: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    by_syn: bool,
    answered: bool,
    connected: bool,
    fin: [bool; 2],
    reset: bool,
    alive: [bool; 2],
    stream: bool,
    revoked: bool,
}

impl Flow {
    fn new(key: &FlowKey, judgement: Judgement, direction: Direction, flags: u8, tick: u64) -> Self {
        let mut flow = Self {
            initiator: direction,
            judgement,
            last: tick,
            packets: [0; 2],
            bytes: [0; 2],
            by_syn: flags & (SYN | ACK | FIN) == SYN,
            answered: false,
            connected: false,
            fin: [false; 2],
            reset: key.protocol() == TCP && flags & RST != 0,
            alive: [false; 2],
            stream: false,
            revoked: false,
        };
        flow.count(direction, tick);
        flow
    }

    fn count(&mut self, direction: Direction, tick: u64) {
        self.packets[direction as usize] += 1;
        self.bytes[direction as usize] += 100;
        self.last = tick;
    }

    fn state(&self, key: &FlowKey) -> FlowState {
        match key.protocol() {
            _ if self.revoked => FlowState::Revoked,
            _ if !self.judgement.tracked => FlowState::Untracked,
            TCP if self.reset => FlowState::Reset,
            TCP if self.connected => match self.fin {
                [false, false] => FlowState::Established,
                [true, true] => FlowState::Closing,
                _ => FlowState::HalfClosed,
            },
            TCP if !self.by_syn => FlowState::PickedUp,
            TCP if self.answered => FlowState::SynReceived,
            TCP => FlowState::SynSent,
            UDP if self.stream => FlowState::UdpStream,
            UDP => FlowState::Udp,
            1 => FlowState::Icmp,
            _ => FlowState::Other,
        }
    }

    fn over(&self, key: &FlowKey, timeouts: &Timeouts, tick: u64) -> bool {
        let seconds = match self.state(key) {
            FlowState::SynSent | FlowState::SynReceived | FlowState::PickedUp => timeouts.tcp_half_open(),
            FlowState::Established | FlowState::HalfClosed => timeouts.tcp_established(),
            FlowState::Closing => timeouts.tcp_closing(),
            FlowState::Reset => timeouts.tcp_reset(),
            FlowState::Udp => timeouts.udp(),
            FlowState::UdpStream => timeouts.udp_stream(),
            FlowState::Icmp => timeouts.icmp(),
            FlowState::Other => timeouts.other(),
            FlowState::Untracked => timeouts.untracked(),
            FlowState::Revoked => 600,
        };
        tick - self.last > (u64::from(seconds) * 1000).div_ceil(64)
    }

    /// Whether the packet belongs to this connection, and not to a new one on its ports.
    fn tcp(&mut self, direction: Direction, flags: u8) -> bool {
        let (syn, ack, back) = (flags & SYN != 0, flags & ACK != 0, direction != self.initiator);
        if flags & RST != 0 {
            if !self.reset {
                self.alive = [false; 2];
            }
            self.reset = true;
            return true;
        }
        if syn && !ack && (self.reset || self.connected && self.fin == [true; 2]) {
            return false;
        }
        let only_syn = self.by_syn && !self.answered && !self.connected && !self.reset;
        self.fin[direction as usize] |= flags & FIN != 0 && !only_syn;
        if self.reset {
            self.alive[direction as usize] |= !syn;
            if self.alive == [true; 2] {
                (self.reset, self.connected) = (false, true);
            }
        } else if !self.by_syn {
            self.connected |= back;
        } else if self.answered {
            self.connected |= ack && !back;
        } else {
            self.answered = syn && back;
        }
        true
    }

    /// Changed rules allow the flow.
    fn adopt(&mut self, key: &FlowKey, judgement: Judgement) {
        let stays_tracked = self.judgement.tracked && !self.revoked;
        self.judgement = Judgement { tracked: judgement.tracked || stays_tracked, ..judgement };
        self.revoked = false;
        if !stays_tracked && judgement.tracked {
            let both = |least: u64| self.packets.iter().all(|count| *count >= least);
            (self.by_syn, self.answered, self.reset) = (false, false, false);
            (self.connected, self.stream) = (both(1), key.protocol() == UDP && both(2));
        }
    }
}

/// What the step made of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Passed(FlowState),
    New(FlowState),
    Denied,
}

struct Model {
    flows: HashMap<FlowKey, Flow>,
    timeouts: Vec<Timeouts>,
    passed: Sums,
}

/// Packets and bytes, those of replies, and flows, by rule.
type Sums = HashMap<RuleKey, [u64; 5]>;

impl Model {
    /// Takes the flows out that are over.
    fn take_over(&mut self, tick: u64) -> Vec<(FlowKey, Flow)> {
        let over = |key: &FlowKey, flow: &mut Flow| flow.over(key, &self.timeouts[key.slot().index()], tick);
        self.flows.extract_if(over).collect()
    }

    fn packet(&mut self, key: &FlowKey, direction: Direction, flags: u8, generation: u32, tick: u64) -> Fate {
        let timeouts = self.timeouts[key.slot().index()];
        let live = |flow: &&mut Flow| !flow.over(key, &timeouts, tick);
        if let Some(flow) = self.flows.get_mut(key).filter(live) {
            let changes = !flow.judgement.tracked || flow.revoked || flow.judgement.revoke_on_change;
            if changes && flow.judgement.generation != generation {
                match rules(generation, key, flow.initiator) {
                    Some(judgement) => flow.adopt(key, judgement),
                    None => (flow.revoked, flow.judgement.generation) = (true, generation),
                }
            }
        }
        // Another state has another timeout.
        if let Some(flow) = self.flows.get_mut(key).filter(live) {
            if flow.revoked && flags & (SYN | ACK) != SYN {
                flow.last = tick;
                return Fate::Denied;
            }
            let tcp = key.protocol() == TCP && flow.judgement.tracked;
            if !flow.revoked && (!tcp || flow.tcp(direction, flags)) {
                flow.count(direction, tick);
                let tracked_udp = key.protocol() == UDP && flow.judgement.tracked;
                flow.stream |= tracked_udp && flow.packets.iter().all(|count| *count > 1);
                note(&mut self.passed, flow, direction, false);
                return Fate::Passed(flow.state(key));
            }
        }
        self.flows.remove(key);
        let Some(judgement) = rules(generation, key, direction) else { return Fate::Denied };
        let flow = Flow::new(key, judgement, direction, flags, tick);
        let state = flow.state(key);
        note(&mut self.passed, &flow, direction, true);
        self.flows.insert(*key, flow);
        Fate::New(state)
    }
}

/// Counts a packet for the rule its flow is under.
fn note(passed: &mut Sums, flow: &Flow, direction: Direction, begins: bool) {
    let key = RuleKey { rule: flow.judgement.rule, generation: flow.judgement.generation };
    let sums = passed.entry(key).or_default();
    let side = if direction == flow.initiator { 0 } else { 2 };
    sums[side] += 1;
    sums[side + 1] += 100;
    sums[4] += u64::from(begins);
}

/// The rules' counts as the manager gathers them.
#[derive(Default)]
struct Gathered {
    settled: HashMap<RuleKey, RuleCounts>,
    /// What the model said when the adding up under way began.
    begun: Option<Sums>,
    last: Sums,
}

impl Gathered {
    /// Adds up some entries; at the end, every rule's sum must be one of the time since the beginning.
    fn go_on(&mut self, table: &mut FlowTable, limit: u32, model: &Sums) -> Result<(), TestCaseError> {
        if self.begun.is_none() {
            for (key, counts) in table.settle() {
                self.settled.entry(key).or_default().add(&counts);
            }
            table.begin_live();
            self.begun = Some(model.clone());
        }
        let Some(live) = table.go_on_live(limit) else { return Ok(()) };
        let sums = self.with(live);
        for (key, least) in self.begun.take().unwrap_or_default() {
            let (got, last) = (sums.get(&key).copied().unwrap_or_default(), self.last.get(&key));
            for (place, got) in got.into_iter().enumerate() {
                prop_assert!(got >= least[place] && got <= model[&key][place], "{:?} {:?}", key, sums);
                prop_assert!(last.is_none_or(|last| got >= last[place]), "{:?} went back", key);
            }
        }
        self.last = sums;
        Ok(())
    }

    fn with(&self, live: Accounts) -> Sums {
        let mut sums = self.settled.clone();
        live.iter().for_each(|(key, counts)| sums.entry(*key).or_default().add(counts));
        let sums = sums
            .into_iter()
            .map(|(key, of)| (key, [of.packets, of.bytes, of.reply_packets, of.reply_bytes, of.flows]));
        sums.filter(|(_, of)| *of != [0; 5]).collect()
    }
}

/// The same by the table, as the step drives it.
fn step(
    table: &mut FlowTable,
    key: &FlowKey,
    direction: Direction,
    flags: u8,
    generation: u32,
    now: Now,
) -> Result<Fate, Refused> {
    let first = PacketFacts { direction, tcp_flags: flags, bytes: 100 };
    let mut lookups = Lookups::default();
    let place = lookups.add(*key);
    lookups.look(table);
    let sought = lookups.get(place).expect("it was just added");
    if table.pass_steady(sought, generation, &first, now) {
        let handle = table.find_sought(sought).handle().expect("a packet of it has passed");
        return Ok(Fate::Passed(table.state(handle).expect("it is in use")));
    }
    if let Found::Hit(handle) = table.find_sought(sought) {
        if table.needs_judgement(handle, generation) {
            match rules(generation, key, table.initiator(handle)) {
                Some(judgement) => table.renew(handle, &judgement, now),
                None => table.revoke(handle, generation, now),
            }
        }
        match table.on_packet(handle, &first, now) {
            Outcome::Pass(state) => return Ok(Fate::Passed(state)),
            Outcome::Revoked => return Ok(Fate::Denied),
            Outcome::Over(_) => {}
        }
    }
    let Some(judgement) = rules(generation, key, direction) else { return Ok(Fate::Denied) };
    let Judgement { rule, generation, tracked, revoke_on_change } = judgement;
    let new = NewFlow { initiator: direction, rule, generation, tracked, revoke_on_change, first };
    let handle = table.insert(key, &new, now)?;
    Ok(Fate::New(table.state(handle).expect("it was just entered")))
}

fn table(pool: PoolConfig, half_open_per_pod: u32) -> FlowTable {
    let config = FlowConfig {
        pods: PODS,
        ipv4: pool,
        ipv6: pool,
        half_open_per_pod,
        seed: [1, 2],
        timeouts: Timeouts::NITRO_V6,
    };
    FlowTable::new(&config).expect("the configuration is sound")
}

/// Compares every flow.
fn agree(table: &FlowTable, model: &Model, tick: u64, now: Now) -> Result<(), TestCaseError> {
    let mut listed = HashMap::new();
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        cursor = table.page(from, 11, now, |_, record| {
            assert!(listed.insert(record.key, record).is_none(), "listed twice");
        });
    }
    let live = |(key, flow): &(&FlowKey, &Flow)| !flow.over(key, &model.timeouts[key.slot().index()], tick);
    let live: Vec<_> = model.flows.iter().filter(live).collect();
    prop_assert_eq!(listed.len(), live.len());
    for (key, flow) in live {
        let record = listed.get(key);
        prop_assert!(record.is_some(), "{:?} is missing", key);
        let Some(record) = record else { continue };
        prop_assert_eq!(record.state, flow.state(key));
        prop_assert_eq!((record.packets, record.bytes), (flow.packets, flow.bytes));
        prop_assert_eq!((record.rule, record.generation), (flow.judgement.rule, flow.judgement.generation));
        prop_assert_eq!(record.initiator(), flow.initiator);
        prop_assert_eq!(record.revoke_on_change(), flow.judgement.revoke_on_change);
        prop_assert_eq!(record.idle_ms, (tick - flow.last) * 64);
    }
    Ok(())
}

/// Lets both live through `events`, with room for every flow.
fn compare(events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut table = table(PoolConfig { flows: 32, pod_quota: 32, pod_reserve: 0 }, 32);
    let mut model = Model {
        flows: HashMap::new(),
        timeouts: vec![Timeouts::NITRO_V6; PODS.into()],
        passed: HashMap::new(),
    };
    let mut gathered = Gathered::default();
    let (mut clock, mut generation) = (1_000_000_u64, 1);
    for event in events {
        let (now, tick) = (Now(clock), clock / 64);
        match event {
            Event::Packet { slot, flow, direction, flags } => {
                let key = key(slot, flow);
                let flags = if key.protocol() == TCP { flags } else { 0 };
                let expected = model.packet(&key, direction, flags, generation, tick);
                let got = step(&mut table, &key, direction, flags, generation, now);
                prop_assert_eq!(got, Ok(expected));
            }
            Event::Wait(ms) => clock += ms,
            Event::Generation => generation += 1,
            Event::Move(slot) => {
                let mut moved = Vec::new();
                while table.len_of(PodSlot(slot)) > 0 {
                    moved.extend(table.take_pod(PodSlot(slot), 3, now));
                }
                for flow in moved {
                    prop_assert!(table.restore(&flow, now).is_ok());
                }
            }
            Event::AddUp(limit) => gathered.go_on(&mut table, limit, &model.passed)?,
            Event::Sweep(budget) => prop_assert!(table.sweep(now, budget) <= budget),
            Event::RemovePod(slot) => {
                while !table.remove_pod(PodSlot(slot), 1) {}
                model.flows.retain(|key, _| key.slot() != PodSlot(slot));
            }
            Event::Timeouts(slot, short) => {
                // A longer timeout may or may not bring back a flow that was over by the shorter one and not swept.
                for (key, _) in model.take_over(tick) {
                    if let Found::Hit(handle) = table.find(&key) {
                        table.remove(handle);
                    }
                }
                let timeouts = if short {
                    Timeouts::NITRO_V6.with_tcp_established(60).expect("60 s is allowed")
                } else {
                    Timeouts::NITRO_V6
                };
                table.set_timeouts(PodSlot(slot), timeouts);
                model.timeouts[usize::from(slot)] = timeouts;
            }
        }
        agree(&table, &model, clock / 64, Now(clock))?;
    }
    gathered.begun = None;
    gathered.go_on(&mut table, u32::MAX, &model.passed)?;
    prop_assert_eq!(gathered.last, model.passed);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// With room for every flow, the table does exactly what the model does.
    #[test]
    fn the_table_does_what_the_model_does(events in prop::collection::vec(event(), 1..120)) {
        compare(events)?;
    }

    /// The same for one TCP connection, so that long conversations come about.
    #[test]
    fn one_connection_does_what_the_model_does(events in prop::collection::vec(tcp_event(), 1..40)) {
        compare(events)?;
    }

    /// Too little room: shares hold, and no pod costs another a flow.
    #[test]
    fn a_small_table_is_shared_as_configured(
        events in prop::collection::vec((0..PODS, 0_u16..12, prop_oneof![Just(SYN), Just(ACK), Just(RST)], any::<bool>(),
            prop_oneof![6 => 0_u64..50, 1 => 0_u64..70_000]), 1..200)
    ) {
        let pool = PoolConfig { flows: 10, pod_quota: 5, pod_reserve: 2 };
        let mut table = table(pool, 3);
        let mut clock = 1_000_000;
        for (slot, port, flags, tracked, wait) in events {
            clock += wait;
            let now = Now(clock);
            let (local, remote) = (Ipv4Addr::from_bits(1), Ipv4Addr::from_bits(2));
            let key = FlowKey::tcp_udp(PodSlot(slot), local, remote, TCP, 1, port);
            let others = |table: &FlowTable| {
                let mut keys = Vec::new();
                table.page(0, u32::MAX, now, |_, record| keys.push(record.key));
                keys.retain(|held| held.slot() != PodSlot(slot));
                keys
            };
            let (before, mine) = (others(&table), table.len_of(PodSlot(slot)));
            let first = PacketFacts { direction: Ingress, tcp_flags: flags, bytes: 100 };
            let known = match table.find(&key) {
                Found::Hit(handle) => matches!(table.on_packet(handle, &first, now), Outcome::Pass(_)),
                Found::Miss => false,
            };
            if !known {
                let (len, mine) = (table.len() as u32, mine.min(table.len_of(PodSlot(slot))));
                let new =
                    NewFlow { initiator: Ingress, rule: 0, generation: 0, tracked, revoke_on_change: false, first };
                match table.insert(&key, &new, now) {
                    Ok(_) => prop_assert!(table.len_of(PodSlot(slot)) <= pool.pod_quota),
                    Err(Refused::PodQuota) => prop_assert_eq!(mine, pool.pod_quota),
                    Err(refused) => {
                        prop_assert_eq!(refused, Refused::Full);
                        prop_assert!(mine >= pool.pod_reserve, "the reserve was refused");
                        prop_assert!(len + u32::from(PODS - 1) * pool.pod_reserve >= pool.flows);
                    }
                }
            }
            prop_assert_eq!(others(&table), before);
            prop_assert!(table.half_open_of(PodSlot(slot)) <= 3);
            let stats = table.stats();
            let gone = stats.expired + stats.reopened + stats.removed + stats.evicted_half_open
                + stats.evicted_finished + stats.evicted_untracked;
            prop_assert_eq!(stats.inserted - gone, table.len() as u64);
        }
    }
}
