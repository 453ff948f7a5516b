//! The commands against the real `espalier-switch`, in a network namespace with a trunk and three pods' veths.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use espalier_api::control::{Applied, GroupStatus, Moved, PodStatus, PortState, RuleStatus, Status};
use espalier_api::{Generation, Snapshot};
use espalier_lab::netns::{NetNs, unique_name};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::support::{Run, data, eventually, run, run_with_input, squeezed, switch_program};

/// A running switch; it, its steering and its namespace go when this is dropped.
struct Switch {
    child: Child,
    pins: PathBuf,
    folder: TempDir,
    _namespace: NetNs,
}

impl Switch {
    fn start() -> Self {
        let namespace = NetNs::create(unique_name("cli")).unwrap();
        for (near, far) in [
            ("ens6", "vpc"),
            ("eni0000000000a", "poda"),
            ("eni0000000000b", "podb"),
            ("eni0000000000c", "podc"),
        ] {
            namespace.veth(near, &namespace, far).unwrap();
            namespace.ip(&format!("link set {near} up\nlink set {far} up")).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf").join(namespace.name());
        let mut command = Command::new(switch_program());
        command
            .arg("--socket")
            .arg(folder.path().join("s"))
            .arg("--pin-dir")
            .arg(&pins)
            .args(["--frames", "8192"]);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = namespace.spawn(command.stdin(Stdio::null()).stderr(log)).unwrap();
        let mut switch = Self { child, pins, folder, _namespace: namespace };
        eventually("the switch answers", || {
            assert_eq!(switch.child.try_wait().unwrap(), None, "the switch ended: {}", switch.log());
            switch.run(&["status"]).code == 0
        });
        switch
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn with_socket(&self, args: &[&str]) -> Vec<String> {
        let socket = self.folder.path().join("s").display().to_string();
        args.iter().map(|arg| (*arg).to_owned()).chain(["--socket".to_owned(), socket]).collect()
    }

    fn run(&self, args: &[&str]) -> Run {
        run(self.with_socket(args))
    }

    /// What a command prints with `--json`, as the API's own type.
    fn json<T: DeserializeOwned>(&self, args: &[&str]) -> T {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{args:?}");
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// Applies the test's node with these words replaced.
    fn apply(&self, changes: &[(&str, &str)]) -> Run {
        let mut text = fs::read_to_string(data("node.yaml")).unwrap();
        for (old, new) in changes {
            assert!(text.contains(old), "{old}");
            text = text.replacen(old, new, 1);
        }
        let path = self.folder.path().join("node.yaml");
        fs::write(&path, text).unwrap();
        self.run(&["apply", path.to_str().unwrap()])
    }

    fn refuses(&self, changes: &[(&str, &str)], wanted: &str) {
        let run = self.apply(changes);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
        let file = self.folder.path().join("node.yaml");
        assert!(run.stderr.starts_with(&format!("error: {}: {wanted}", file.display())), "{}", run.stderr);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // A test that failed already must not panic again on its way out.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut unpin = Command::new(switch_program());
        let _ = unpin.arg("--unpin").arg("--pin-dir").arg(&self.pins).stderr(Stdio::null()).status();
        let _ = fs::remove_dir(&self.pins);
        if thread::panicking() {
            let _ = fs::copy(self.folder.path().join("log"), "/dev/stderr");
        }
    }
}

#[test]
fn a_fresh_switch_says_what_to_do_next() {
    let switch = Switch::start();
    let status = switch.run(&["status"]).stdout;
    assert!(status.contains("none yet: `espalier apply FILE` sends one"), "{status}");
    assert!(switch.json::<Vec<PodStatus>>(&["pods"]).is_empty());
    assert!(switch.json::<Vec<GroupStatus>>(&["groups"]).is_empty());
    let rules = switch.run(&["rules", "shop/web-0"]);
    assert_eq!((rules.code, rules.stdout.as_str()), (2, ""));
    assert!(
        rules.stderr.starts_with("error: no snapshot is enforced yet: `espalier apply"),
        "{}",
        rules.stderr
    );
}

#[test]
fn an_applied_snapshot_is_what_the_other_commands_show() {
    let switch = Switch::start();
    let applied: Applied = switch.json(&["apply", data("node.yaml").to_str().unwrap()]);
    assert_eq!((applied.generation, applied.changed, applied.warnings.len()), (Generation(7), true, 0));
    let again = switch.apply(&[]);
    assert!(again.stdout.starts_with("generation 7 already enforced, nothing changed"), "{again:?}");

    let status: Status = switch.json(&["status"]);
    assert_eq!(
        (status.generation, status.pods, status.groups, status.rules),
        (Some(Generation(7)), 3, 5, 12)
    );
    assert!(status.workers.iter().all(|worker| worker.generation == Some(Generation(7))));
    let frames = status.frames;
    assert_eq!(frames.free + frames.fill + frames.rx + frames.worker + frames.tx, frames.total);
    assert_eq!(frames.total, 8192);
    assert_eq!(status.counters.rx, status.counters.accounted());
    let shown = squeezed(&switch.run(&["status"]).stdout);
    assert!(shown.contains("generation 7, enforced by every worker"), "{shown}");
    assert!(shown.contains(" == total 8192") && !shown.contains("OFF BY"), "{shown}");

    let pods: Vec<PodStatus> = switch.json(&["pods"]);
    assert_eq!(
        pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(),
        ["shop/web-0", "shop/db-0", "shop/proxy-0"]
    );
    assert!(pods.iter().all(|pod| pod.state == PortState::Up), "{pods:?}");
    let web: PodStatus = switch.json(&["pods", "shop/web-0"]);
    assert_eq!(web.vlan.get(), 1);
    assert_eq!(switch.run(&["pods", "shop/web-9"]).code, 2);
    let moved = switch.run(&["pods", "move", "shop/web-0", "--worker", "0"]);
    assert_eq!((moved.code, moved.stdout.as_str()), (0, "shop/web-0 is at home with worker 0 already\n"));
    let nowhere = switch.run(&["pods", "move", "shop/web-0", "--worker", "1"]);
    assert!(
        nowhere.code == 2 && nowhere.stderr.contains("worker: there is no worker 1: the last is 0"),
        "{nowhere:?}"
    );
    assert!(switch.json::<Vec<Moved>>(&["pods", "rebalance"]).is_empty());
    assert!(shown.contains("running"), "{shown}");

    let snapshot: Snapshot = espalier_api::file::load(&data("node.yaml")).unwrap();
    for (group, wanted) in switch.json::<Vec<GroupStatus>>(&["groups"]).iter().zip(&snapshot.security_groups)
    {
        assert_eq!(
            (&group.group_id, group.ingress_rules + group.egress_rules),
            (&wanted.group_id, wanted.rules.len())
        );
    }
    assert!(switch.run(&["groups", "sg-db"]).stdout.contains("sgr-db-backup"));
    let rules: Vec<RuleStatus> = switch.json(&["rules", "shop/db-0"]);
    assert_eq!(rules.iter().map(|status| status.targets).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn the_switch_answers_as_the_snapshot_does() {
    let switch = Switch::start();
    assert_eq!(switch.apply(&[]).code, 0);
    let snapshot = data("node.yaml").display().to_string();
    let question = |last: u16, port: u16| {
        format!(
            r#"{{"pod":"shop/web-0","direction":"ingress","protocol":"tcp","remote":"10.{}.{}.1","port":{port}}}"#,
            last % 2,
            last % 256
        ) + "\n"
    };
    // More than one request's worth, so that the order across requests is seen.
    let queries: String = (0..12_000).map(|n| question(n, 442 + n % 3)).collect();
    let offline = run_with_input(["explain", "--json", "--queries", "-", "--snapshot", &snapshot], &queries);
    let online = run_with_input(switch.with_socket(&["explain", "--json", "--queries", "-"]), &queries);
    assert_eq!((online.code, online.stderr.as_str()), (0, ""));
    assert_eq!(online.stdout.lines().count(), 12_000);
    assert!(online.stdout == offline.stdout, "the switch and the snapshot file answer differently");

    let packet = ["--ingress", "--protocol", "tcp", "--remote", "10.0.0.1"];
    let ask =
        |pod: &str, port: &str| switch.run(&[&["explain", pod][..], &packet, &["--port", port]].concat());
    assert_eq!(ask("shop/web-0", "443").code, 0);
    let denied = ask("shop/web-0", "444");
    assert_eq!(denied.code, 1);
    // The nearest rule is looked for in the snapshot that the switch enforces.
    assert!(denied.stdout.contains("nearest is sgr-web-https of sg-web"), "{denied:?}");
    assert_eq!(ask("shop/web-9", "443").code, 2);
}

#[test]
fn a_refused_snapshot_changes_nothing() {
    let switch = Switch::start();
    switch.refuses(&[("interface: ens6", "interface: ens9")], "trunk.interface: ");
    assert_eq!(switch.json::<Status>(&["status"]).generation, None);
    assert_eq!(switch.apply(&[]).code, 0);
    switch.refuses(&[("generation: 7", "generation: 6")], "generation: 6 is older than 7");
    switch.refuses(&[("generation: 7", "generation: 8"), ("vlan: 2", "vlan: 1")], "pods[1].vlan: ");
    switch.refuses(
        &[("generation: 7", "generation: 8"), ("interface: ens6", "interface: ens9")],
        "trunk.interface: ",
    );
    let status: Status = switch.json(&["status"]);
    assert_eq!((status.generation, status.pods), (Some(Generation(7)), 3));
}

#[test]
fn a_pod_without_its_veth_is_a_warning_and_a_port_that_is_down() {
    let switch = Switch::start();
    let run = switch.apply(&[("veth: eni0000000000c", "veth: nosuch")]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("warning: pod shop/proxy-0: "), "{run:?}");
    let proxy: PodStatus = switch.json(&["pods", "shop/proxy-0"]);
    assert!(matches!(&proxy.state, PortState::Down(why) if why.contains("nosuch")), "{proxy:?}");
    let shown = switch.run(&["pods"]).stdout;
    assert!(shown.contains("down: no network interface \"nosuch\""), "{shown}");
}
