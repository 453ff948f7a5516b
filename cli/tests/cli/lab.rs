//! `espalier lab` from the outside: what it prints, how it exits, and that nothing of it stays.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use espalier_api::Direction;
use espalier_api::flows::{Flow, FlowCount, FlowState};
use espalier_lab::Lab;
use serde_json::Value;

use crate::support::{Run, espalier, eventually, run, squeezed, switch_program};

/// A lab's name that no other test has; what is left of the lab goes when this is dropped.
pub(crate) struct Name(pub(crate) String);

impl Name {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!("c{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn lab(&self, args: &[&str]) -> Run {
        let (command, rest) = args.split_first().unwrap();
        let switch = switch_program();
        let named = ["lab", command, "--name", &self.0].into_iter().chain(rest.iter().copied());
        espalier().args(named).env("ESPALIER_SWITCH", switch).stdin(Stdio::null()).output().unwrap().into()
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = espalier();
        command.args(["lab", "run", "--name", &self.0]).args(args).env("ESPALIER_SWITCH", switch_program());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn folder(&self) -> String {
        format!("/run/espalier/lab/{}", self.0)
    }

    fn namespaces(&self) -> Vec<String> {
        let names = fs::read_dir("/run/netns")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&format!("{}-", self.0))).collect()
    }

    fn is_gone(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        self.namespaces().is_empty()
            && !Path::new(&self.folder()).exists()
            && !mounts.contains(&self.folder())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if Path::new(&self.folder()).exists() {
            let _ = run(["lab", "down", "--name", &self.0]);
        }
    }
}

/// The rds scenario; its file is the example of a user's own.
fn rds() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/scenarios/rds.yaml")).unwrap()
}

#[test]
fn a_run_reports_every_probe_and_leaves_nothing() {
    let name = Name::new();
    let run = name.lab(&["run", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&report), "counters failed passed probes scenario");
    let probes = report["probes"].as_array().unwrap();
    assert!(probes.len() >= 10, "{}", probes.len());
    for probe in probes {
        assert_eq!(keys(probe), "expect from got ms port protocol reason rule to");
        assert_eq!(probe["expect"], probe["got"], "{probe}");
    }
    assert_eq!((&report["scenario"], &report["failed"]), (&"rds".into(), &0.into()));
    assert_eq!(report["passed"], probes.len());
    let counters = &report["counters"];
    let dropped: u64 =
        counters["dropped"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    let number = |name: &str| counters[name].as_u64().unwrap();
    assert_eq!(number("rx"), number("forwarded") + number("consumed") + dropped);
    assert!(name.is_gone(), "{:?}", name.namespaces());
}

#[test]
fn a_probe_that_comes_out_otherwise_exits_1_and_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.yaml");
    let text = rds();
    let probes = text.split_once("probes:\n").unwrap();
    let wrong =
        "  - {from: orders/api, to: resolver, protocol: dns, name: orders.rds.lab.internal, expect: deny}\n";
    fs::write(&path, format!("{}probes:\n{wrong}", probes.0)).unwrap();
    let name = Name::new();
    let run = name.lab(&["run", path.to_str().unwrap()]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("FAIL") && run.stdout.contains("0 passed, 1 failed"), "{run:?}");
    assert!(name.is_gone());
}

#[test]
fn a_lab_that_is_up_can_be_entered_looked_at_and_taken_down() {
    let name = Name::new();
    let up = name.lab(&["up"]);
    assert_eq!(up.code, 0, "{up:?}");
    let socket = format!("{}/switch.sock", name.folder());
    assert!(up.stdout.contains(&format!("espalier --socket {socket} status")), "{up:?}");
    assert_eq!(run(["status", "--socket", &socket]).code, 0);

    let twin = name.lab(&["up"]);
    assert_eq!((twin.code, twin.stdout.as_str()), (2, ""), "{twin:?}");
    assert!(twin.stderr.contains(&format!("espalier lab down --name {}", name.0)), "{twin:?}");

    let address = name.lab(&["exec", "orders/api", "--", "ip", "-brief", "-4", "address", "show", "eth0"]);
    assert!(address.stdout.contains("10.0.1.10/32"), "{address:?}");
    assert_eq!(name.lab(&["exec", "db", "--", "sh", "-c", "exit 42"]).code, 42);
    assert_eq!(name.lab(&["exec", "db", "--", "sh", "-c", "kill -9 $$"]).code, 128 + 9);
    let nobody = name.lab(&["exec", "orders/nobody", "--", "true"]);
    assert_eq!(nobody.code, 2, "{nobody:?}");

    let listed: Value = serde_json::from_str(&run(["lab", "list", "--json"]).stdout).unwrap();
    let labs = listed["labs"].as_array().unwrap();
    let lab = labs.iter().find(|lab| lab["name"] == name.0.as_str()).unwrap();
    assert_eq!((&lab["scenario"], &lab["switch_answers"]), (&"rds".into(), &true.into()));
    assert!(listed["scenarios"].as_array().unwrap().len() >= 4);

    assert_eq!(name.lab(&["down"]).code, 0);
    assert!(name.is_gone(), "{:?}", name.namespaces());
    let again = name.lab(&["down"]);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.stderr.contains(&format!("there is no lab {}", name.0)), "{again:?}");
}

#[test]
fn flows_are_listed_counted_and_dropped() {
    let name = Name::new();
    assert_eq!(name.lab(&["up"]).code, 0);
    let lab = Lab::attach(&name.0.parse().unwrap()).unwrap();
    let listen = || TcpListener::bind("10.0.2.20:5432").unwrap();
    let listener = lab.namespace("db").unwrap().run(listen).unwrap();
    let connect = || TcpStream::connect("10.0.2.20:5432").unwrap();
    let client = lab.namespace("orders/api").unwrap().run(connect).unwrap();
    let _server = listener.accept().unwrap();
    let port = client.local_addr().unwrap().port();

    let socket = format!("{}/switch.sock", name.folder());
    let flows = |args: &[&str]| run(["flows"].iter().chain(args).chain(&["--socket", &socket]));
    let listed = |args: &[&str]| -> Vec<Flow> {
        let run = flows(&[&["--json", "--protocol", "tcp"], args].concat());
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{args:?}");
        serde_json::from_str(&run.stdout).unwrap()
    };
    eventually("the connection is established", || !listed(&["--state", "established"]).is_empty());
    let flow = listed(&[]).remove(0);
    assert_eq!((flow.pod.as_str(), flow.direction), ("orders/api", Direction::Egress));
    assert_eq!((flow.local_port, flow.remote_port), (Some(port), Some(5432)));
    assert_eq!(flow.rule.unwrap().as_str(), "sgr-orders-to-db");

    let number = port.to_string();
    let fitting: [&[&str]; 5] = [
        &["--pod", "orders/api"],
        &["--remote", "10.0.2.0/24"],
        &["--port", &number],
        &["--rule", "sgr-orders-to-db"],
        &[],
    ];
    for filter in fitting {
        assert_eq!(listed(filter).len(), 1, "{filter:?}");
    }
    let others: [&[&str]; 4] =
        [&["--pod", "orders/report"], &["--remote", "10.0.2.21"], &["--port", "5431"], &["--limit", "0"]];
    for filter in others {
        assert_eq!(listed(filter).len(), 0, "{filter:?}");
    }
    assert_eq!(flows(&["--pod", "orders/nobody"]).code, 2);
    assert_eq!(flows(&["--state", "open"]).code, 2);
    let table = squeezed(&flows(&["--protocol", "tcp"]).stdout);
    assert!(table.contains(&format!("orders/api tcp/{port} -> 10.0.2.20:5432 established")), "{table}");
    let wide = squeezed(&flows(&["--protocol", "tcp", "-o", "wide"]).stdout);
    assert!(wide.contains(&format!("orders/api 10.0.1.10 tcp/{port} -> ")), "{wide}");
    let yaml: Vec<Flow> =
        serde_saphyr::from_str(&flows(&["--protocol", "tcp", "-o", "yaml"]).stdout).unwrap();
    assert_eq!(yaml[0].remote_port, Some(5432));

    let count: FlowCount =
        serde_json::from_str(&flows(&["count", "--json", "--protocol", "tcp"]).stdout).unwrap();
    assert_eq!((count.flows, count.by_state[&FlowState::Established]), (1, 1));
    for (args, wanted) in [(&["drop"][..], "--all"), (&["drop", "--port", &number], "--yes: missing")] {
        let refused = flows(args);
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{args:?}");
        assert!(refused.stderr.contains(wanted), "{}", refused.stderr);
    }
    assert_eq!(listed(&[]).len(), 1, "a refused drop must drop nothing");
    let dropped = flows(&["drop", "--yes", "--port", &number]);
    assert_eq!((dropped.code, dropped.stdout.as_str()), (0, "1 flows dropped\n"));
    assert_eq!(listed(&[]).len(), 0);
    drop(lab);
    assert_eq!(name.lab(&["down"]).code, 0);
}

#[test]
fn ctrl_c_ends_a_run_and_removes_the_lab() {
    let name = Name::new();
    let child = name.start(&["rules-tour"]);
    eventually("the switch is started", || Path::new(&name.folder()).join("switch.sock").exists());
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stdout.as_str()), (130, ""), "{run:?}");
    assert!(run.stderr.contains("error: interrupted"), "{run:?}");
    assert!(name.is_gone(), "{:?}", name.namespaces());
}

#[test]
fn a_kept_lab_stays_until_it_is_taken_down() {
    let name = Name::new();
    let run = name.lab(&["run", "--keep", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    serde_json::from_str::<Value>(&run.stdout).unwrap();
    assert!(run.stderr.contains("espalier lab down --name"), "{run:?}");
    assert!(!name.namespaces().is_empty());
    assert_eq!(name.lab(&["down"]).code, 0);
    assert!(name.is_gone());
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.yaml");
    fs::write(&path, rds().replacen("from: orders/api", "from: orders/apo", 1)).unwrap();
    let file = path.to_str().unwrap();
    let name = Name::new();
    for (args, wanted) in [
        (vec!["run", "nosuch"], "\"nosuch\" is neither a file nor a shipped scenario"),
        (vec!["run", file], "mine.yaml: probes[0].from: "),
        (vec!["up", "--switch", "/nonexistent/espalier-switch"], "/nonexistent/espalier-switch"),
        (vec!["up", "--mtu", "64"], "64 is not in 1280..=9001"),
    ] {
        let run = name.lab(&args);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{args:?}: {run:?}");
        assert!(run.stderr.contains(wanted), "{args:?}: {}", run.stderr);
        assert!(name.is_gone(), "{args:?}");
    }
    let long = run(["lab", "up", "--name", "Not_A_Name"]);
    assert_eq!(long.code, 2);
    assert!(long.stderr.contains("expected 1 to 16 lower-case letters and digits"), "{}", long.stderr);
}
