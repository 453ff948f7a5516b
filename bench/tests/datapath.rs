//! `compare datapath` as its users run it: the options, and a short real run whose frames are all accounted for.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs it; gives its process id, too, which is in the names of what it makes.
fn bench(arguments: &[&str]) -> (u32, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier-bench"));
    command.arg("compare").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("cargo built the program");
    (child.id(), child.wait_with_output().expect("its output can be read"))
}

/// What a process of this id left in a folder.
fn left(folder: &str, tag: &str, pid: u32) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = |name: &str| name.starts_with(tag) && name.contains(&format!("-{pid}-"));
    entries.filter(|entry| ours(&entry.file_name().to_string_lossy())).count()
}

#[test]
fn options_of_the_datapath_are_refused_elsewhere_and_unknown_subjects_everywhere() {
    for wrong in
        [["rules", "--quick"].as_slice(), &["flows", "--only", "raw"], &["datapath", "--only", "magic"]]
    {
        let (_, output) = bench(wrong);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {said}");
        assert!(said.contains("--quick and --only") || said.contains("nft-chain"), "{wrong:?}: {said}");
    }
}

#[test]
fn a_quick_run_measures_both_and_leaves_nothing() {
    let (pid, output) = bench(&["datapath", "--quick", "--only", "raw", "--only", "espalier", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let median = |case: &str, subject: &str| {
        let rows = report["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["case"] == case && row["subject"] == subject);
        row.and_then(|row| row["median"].as_f64()).unwrap_or_else(|| panic!("no {case} of {subject}: {said}"))
    };
    for way in ["trunk-to-pod", "pod-to-trunk", "pod-to-pod"] {
        for subject in ["raw", "espalier"] {
            let case = format!("datapath/{way}/64");
            assert!(median(&case, subject) > 1000.0, "{case}: {said}");
            assert!(median(&format!("{case}/cpu"), subject) > 0.0, "{case}: {said}");
        }
    }
    assert_eq!(median("datapath/accounting", "espalier"), 0.0, "{said}");
    let goals = report["goals"].as_array().unwrap();
    assert!(goals.iter().any(|goal| goal["want"] == 0.95 && goal["met"].is_boolean()), "{goals:?}");
    assert!(report["machine"]["kernel"].is_string());
    assert_eq!((left("/run/netns", "dp-", pid), left("/sys/fs/bpf", "espalier-dp-node", pid)), (0, 0));
}
