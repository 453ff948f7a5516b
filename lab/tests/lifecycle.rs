//! A lab's life without a switch: the VPC's services, names, and that everything is gone after every kind of end.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use espalier_lab::{Lab, LabError, LabName, Options, Scenario};

/// Set in the process that a test starts from its own program to be killed.
const ROLE: &str = "ESPALIER_LAB_TEST_ROLE";

const PATIENCE: Duration = Duration::from_secs(30);

fn options(tag: &str) -> Options {
    Options { name: format!("l{tag}{}", std::process::id()).parse().unwrap(), ..Options::default() }
}

fn network(options: &Options) -> Result<Lab, LabError> {
    Lab::network(options, Scenario::load("dual-stack").unwrap())
}

fn namespaces(name: &LabName) -> Vec<PathBuf> {
    let prefix = format!("{name}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix)).collect()
}

fn run_dir(name: &LabName) -> PathBuf {
    Path::new("/run/espalier/lab").join(name.as_str())
}

fn services_of(name: &LabName) -> Vec<String> {
    let config = format!("/run/espalier/lab/{name}/vpc.json");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&config)).collect()
}

#[track_caller]
fn assert_gone(name: &LabName) {
    assert_eq!(namespaces(name), Vec::<PathBuf>::new());
    assert!(!run_dir(name).exists(), "{}", run_dir(name).display());
    assert_eq!(services_of(name), Vec::<String>::new());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(run_dir(name).to_str().unwrap()));
}

fn succeeds(lab: &Lab, place: &str, command: &[&str]) -> bool {
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    lab.exec(place, &command).unwrap().success()
}

#[test]
fn commands_inside_resolve_names_and_reach_the_metadata_service() {
    let options = options("a");
    let lab = network(&options).unwrap();
    for (place, name, found) in [
        ("db", "web.lab.internal", "198.51.100.10"),
        ("db", "dual.shop", "2001:db8:1:1::10"),
        ("node", "db.lab.internal", "10.0.2.20"),
    ] {
        let script = format!("getent ahosts {name} | grep -qF {found}");
        assert!(succeeds(&lab, place, &["sh", "-c", &script]), "{place}: {name} is not {found}");
    }
    assert!(!succeeds(&lab, "db", &["getent", "ahosts", "nosuch.lab.internal"]));
    for url in ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/"] {
        assert!(succeeds(&lab, "web", &["curl", "-fsS", "-m", "20", "-o", "/dev/null", url]), "{url}");
    }
    assert!(succeeds(&lab, "vpc", &["ip", "link", "show", "vpctrunk"]));
    let error = lab.exec("nosuch", &["true".into()]).unwrap_err().to_string();
    assert!(error.contains("expected one of shop/dual"), "{error}");
    lab.remove().unwrap();
    assert_gone(&options.name);
}

#[test]
fn a_name_is_taken_once_and_other_names_are_independent() {
    let (first, other) = (options("b"), options("c"));
    let lab = network(&first).unwrap();
    let refused = network(&first).unwrap_err();
    assert!(matches!(&refused, LabError::Exists { .. }), "{refused}");
    assert!(refused.to_string().contains("espalier lab down --name"), "{refused}");
    assert_eq!(services_of(&first.name).len(), 1, "the refused one must not disturb the first");

    let second = network(&other).unwrap();
    let shown = espalier_lab::list();
    for name in [&first.name, &other.name] {
        let info = shown.iter().find(|info| info.name == name.as_str()).unwrap();
        assert_eq!(info.scenario.as_deref(), Some("dual-stack"));
        assert!(info.endpoints.contains(&"shop/dual".to_owned()));
        assert!(!info.switch_answers);
    }
    drop(second);
    assert_gone(&other.name);
    assert!(succeeds(&lab, "db", &["ping", "-c1", "-W20", "10.0.0.10"]), "the first still works");
    drop(lab);
    assert_gone(&first.name);
    assert!(matches!(Lab::attach(&first.name), Err(LabError::NotFound { .. })));
    assert!(matches!(Lab::down(&first.name), Err(LabError::NotFound { .. })));
}

#[test]
fn a_kept_lab_can_be_attached_to_and_taken_down() {
    let options = options("d");
    network(&options).unwrap().keep();
    let lab = Lab::attach(&options.name).unwrap();
    assert!(succeeds(&lab, "db", &["ping", "-c1", "-W20", "198.51.100.10"]));
    drop(lab);
    assert_eq!(namespaces(&options.name).len(), 8);
    Lab::down(&options.name).unwrap();
    assert_gone(&options.name);
}

#[test]
fn a_panic_or_a_broken_switch_leaves_nothing() {
    let mut options = options("e");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _lab = network(&options).unwrap();
        panic!("a test fails");
    }));
    assert!(outcome.is_err());
    assert_gone(&options.name);

    options.switch = Some("/bin/false".into());
    let error = Lab::up(&options, Scenario::load("rds").unwrap()).unwrap_err();
    assert!(matches!(error, LabError::Program { program: "espalier-switch", .. }), "{error}");
    assert_gone(&options.name);
}

/// Stands in for a switch that never answers.
fn silent_switch(folder: &Path) -> PathBuf {
    let path = folder.join("silent-switch");
    fs::write(&path, "#!/bin/sh\nexec sleep 300\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Makes a lab in a process of its own, sends that process a signal once the switch was started, and waits for it.
fn signalled(test: &str, tag: &str, signal: &str) -> LabName {
    let name = format!("l{tag}{}", std::process::id());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, &name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("starting the switch")));
    // The network stands; the switch is being waited for.
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the signalled lab does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    name.parse().unwrap()
}

/// What the signalled process does.
fn hold_a_lab(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        name: name.parse().unwrap(),
        switch: Some(silent_switch(folder.path())),
        progress: |text| {
            let mut out = std::io::stdout();
            writeln!(out, "{text}").unwrap();
            out.flush().unwrap();
        },
        ..Options::default()
    };
    let ended = Lab::up(&options, Scenario::load("rds").unwrap());
    assert!(matches!(ended, Err(LabError::Interrupted)));
}

#[test]
fn a_signal_takes_the_lab_down() {
    if let Ok(name) = std::env::var(ROLE) {
        return hold_a_lab(&name);
    }
    for (tag, signal) in [("f", "-TERM"), ("g", "-INT")] {
        assert_gone(&signalled("a_signal_takes_the_lab_down", tag, signal));
    }
}

#[test]
fn a_killed_lab_is_refused_a_twin_and_down_removes_it() {
    if let Ok(name) = std::env::var(ROLE) {
        return hold_a_lab(&name);
    }
    let name = signalled("a_killed_lab_is_refused_a_twin_and_down_removes_it", "h", "-KILL");
    assert!(!namespaces(&name).is_empty() && services_of(&name).len() == 1, "kill -9 leaves it all");
    let twin = Options { name: name.clone(), ..Options::default() };
    assert!(matches!(network(&twin), Err(LabError::Exists { .. })));
    Lab::down(&name).unwrap();
    assert_gone(&name);
    drop(network(&twin).unwrap());
    assert_gone(&name);
}
