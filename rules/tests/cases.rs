//! Runs `testdata/*.toml` through every engine. Each case cites the sentence it encodes.
//!
//! A case has groups (rules in EC2's shape), the groups of pod `default/web` (`web`, default sg-1; 10.0.1.10 and
//! 2001:db8::10), `default/db` always has sg-2 where there is one (10.0.1.11), members, prefix lists, and packets:
//! `<direction> <protocol> <remote> [<port> | <type>/<code>] [from <source port>] = <outcome>`, where the outcome is
//! `deny`, `unfiltered <service>` or `<rule> tracked|untracked`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use espalier_api::{Direction, QueryProtocol, Snapshot};
use espalier_rules::{Compiler, Decision, Direct, Engine, Judge, Settings, Tuple, direct};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Suite {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    source: String,
    groups: BTreeMap<String, Value>,
    #[serde(default)]
    web: Vec<String>,
    #[serde(default)]
    members: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    lists: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    always_tracked: Vec<IpNet>,
    packets: Vec<String>,
}

impl Case {
    fn snapshot(&self) -> Snapshot {
        let web = if self.web.is_empty() { vec!["sg-1".to_owned()] } else { self.web.clone() };
        let mut pods = vec![pod("web", 1, &["10.0.1.10", "2001:db8::10"], &web)];
        if self.groups.contains_key("sg-2") {
            pods.push(pod("db", 2, &["10.0.1.11"], &["sg-2".to_owned()]));
        }
        let groups: Vec<Value> =
            self.groups.iter().map(|(id, rules)| json!({"groupId": id, "rules": rules})).collect();
        let list = |(id, entries): (&String, &Vec<String>)| {
            let family = if entries.iter().any(|entry| entry.contains(':')) { "IPv6" } else { "IPv4" };
            json!({"prefixListId": id, "addressFamily": family, "entries": entries})
        };
        let snapshot = json!({
            "generation": 1,
            "vpc": {"cidrs": ["10.0.0.0/16"]},
            "trunk": {"interface": "trunk0"},
            "pods": pods,
            "securityGroups": groups,
            "prefixLists": self.lists.iter().map(list).collect::<Vec<_>>(),
            "groupMembers": self.members,
        });
        let text = serde_json::to_vec(&snapshot).unwrap();
        Snapshot::from_json(&text).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

fn pod(name: &str, number: u8, addresses: &[&str], groups: &[String]) -> Value {
    json!({
        "name": format!("default/{name}"), "eniId": format!("eni-{number}"), "vlan": number,
        "mac": format!("06:00:00:00:00:{number:02x}"), "addresses": addresses, "subnets": ["10.0.1.0/24"],
        "veth": format!("v{number}"), "securityGroups": groups,
    })
}

/// The packet and the wanted outcome of one line.
fn parse(line: &str) -> (Tuple, &str) {
    let (packet, outcome) = line.split_once(" = ").unwrap_or_else(|| panic!("no outcome: {line}"));
    let words: Vec<&str> = packet.split_whitespace().collect();
    let direction = match words[0] {
        "ingress" => Direction::Ingress,
        "egress" => Direction::Egress,
        other => panic!("{other} is not a direction: {line}"),
    };
    let protocol: QueryProtocol = words[1].parse().unwrap();
    let remote = words[2].parse().unwrap();
    let tuple = match words[3..] {
        [] => Tuple::bare(direction, remote, protocol.0),
        [port] => match port.split_once('/') {
            Some((icmp_type, code)) => {
                Tuple::icmp(direction, remote, protocol.0, icmp_type.parse().unwrap(), code.parse().unwrap())
            }
            None => Tuple::with_ports(direction, remote, protocol.0, 50_000, port.parse().unwrap()),
        },
        [port, "from", source] => {
            Tuple::with_ports(direction, remote, protocol.0, source.parse().unwrap(), port.parse().unwrap())
        }
        _ => panic!("not a packet: {line}"),
    };
    (tuple, outcome)
}

fn tracking(tracked: bool) -> &'static str {
    if tracked { "tracked" } else { "untracked" }
}

fn words(judge: &Judge, decision: Decision) -> String {
    match decision {
        Decision::Allow { rule, tracked } => {
            format!("{} {}", judge.rule(rule).unwrap().id().unwrap(), tracking(tracked))
        }
        Decision::Unfiltered { service } => format!("unfiltered {}", judge.service_name(service).unwrap()),
        Decision::Deny => "deny".to_owned(),
    }
}

fn direct_words(snapshot: &Snapshot, judge: &Judge, answer: Direct) -> String {
    match answer {
        Direct::Allow { group, position, tracked } => {
            let group = snapshot.security_groups.iter().find(|own| own.group_id == group).unwrap();
            format!("{} {}", group.rules[position].id.as_ref().unwrap(), tracking(tracked))
        }
        Direct::Unfiltered(place) => format!("unfiltered {}", judge.model().services().list()[place].name),
        Direct::Deny => "deny".to_owned(),
    }
}

fn run(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    let suite: Suite = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    // A compiler that goes from case to case: whatever one leaves behind would show in the next.
    let mut updated: Option<Compiler> = None;
    for case in &suite.case {
        assert!(case.source.contains(':'), "{}: cite the page and what it says", case.name);
        let snapshot = Arc::new(case.snapshot());
        let settings = Arc::new(Settings { always_tracked: case.always_tracked.clone() });
        let (plain, _) = Judge::plain_with_settings(&snapshot, settings.clone());
        let mut engines = vec![
            ("linear", plain.clone()),
            ("compiled", Compiler::with_settings(snapshot.clone(), settings.clone()).judge()),
        ];
        if case.always_tracked.is_empty() {
            match &mut updated {
                Some(compiler) => drop(compiler.update(snapshot.clone())),
                None => updated = Some(Compiler::new(snapshot.clone())),
            }
            engines.extend(updated.as_ref().map(|compiler| ("updated", compiler.judge())));
        }
        for line in &case.packets {
            let (packet, wanted) = parse(line);
            let answer = direct_words(&snapshot, &plain, direct(&snapshot, &settings, 0, &packet));
            assert_eq!(answer, wanted, "direct, {}: {line}", case.name);
            for (engine, judge) in &engines {
                let policy = judge.policy_of(0).unwrap();
                assert_eq!(
                    words(judge, judge.judge(policy, &packet)),
                    wanted,
                    "{engine}, {}: {line}",
                    case.name
                );
                let mut batch = [Decision::Deny];
                judge.judge_batch(&[(policy, packet)], &mut batch);
                assert_eq!(words(judge, batch[0]), wanted, "{engine} in a batch, {}: {line}", case.name);
            }
        }
    }
}

#[test]
fn rules() {
    run("rules.toml");
}

#[test]
fn references() {
    run("references.toml");
}

#[test]
fn tracking_of_flows() {
    run("tracking.toml");
}

#[test]
fn unfiltered() {
    run("unfiltered.toml");
}
