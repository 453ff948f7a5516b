//! `explain --snapshot`: the answers, their shape, and what is refused before anything is answered.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use espalier_api::control::{GroupStatus, RuleStatus};
use espalier_api::{Answer, Difference, Explained, Query};
use espalier_rules::{Finding, FindingKind, SpaceChange};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Run, data, espalier, run, run_with_input, squeezed};

/// A question and what must come back: verdict, rule, group, tracked.
struct Case {
    query: Value,
    expected: Value,
}

/// The table in `data/golden.tsv`: verdict, rule, group, tracked, pod, direction, protocol, remote, port or ICMP.
fn golden() -> Vec<Case> {
    let table = fs::read_to_string(data("golden.tsv")).unwrap();
    table.lines().map(case).collect()
}

fn case(line: &str) -> Case {
    let fields: Vec<&str> = line.split('\t').collect();
    let [verdict, rule, group, tracked, pod, direction, protocol, remote, rest] = fields[..] else {
        panic!("not nine columns: {line}");
    };
    let or_null = |text: &str| if text == "-" { Value::Null } else { json!(text) };
    let mut query = json!({"pod": pod, "direction": direction, "protocol": protocol, "remote": remote});
    match rest.split(' ').collect::<Vec<_>>()[..] {
        ["-"] => {}
        ["type", icmp_type, "code", code] => {
            query["icmp_type"] = json!(icmp_type.parse::<u8>().unwrap());
            query["icmp_code"] = json!(code.parse::<u8>().unwrap());
        }
        _ => query["port"] = json!(rest.parse::<u16>().unwrap()),
    }
    let expected = json!({
        "verdict": verdict, "rule": or_null(rule), "group": or_null(group), "tracked": tracked == "true"
    });
    Case { query, expected }
}

fn asked(queries: &str) -> Run {
    let snapshot = data("node.yaml");
    run_with_input(["explain", "--snapshot", snapshot.to_str().unwrap(), "--queries", "-", "--json"], queries)
}

#[test]
fn every_golden_query_has_its_answer_in_the_same_order() {
    let cases = golden();
    let queries: String = cases.iter().map(|case| format!("{}\n", case.query)).collect();
    let run = asked(&queries);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(run.stdout.lines().count(), cases.len());
    for (line, case) in run.stdout.lines().zip(&cases) {
        let mut answer: Value = serde_json::from_str(line).unwrap();
        let reason = answer.as_object_mut().unwrap().remove("reason").unwrap();
        assert_eq!(answer, case.expected, "{}: {reason}", case.query);
        assert!(reason.as_str().unwrap().contains(case.query["remote"].as_str().unwrap()), "{reason}");
        serde_json::from_str::<Answer>(line).unwrap();
    }
}

#[test]
fn one_question_exits_with_its_answer() {
    let snapshot = data("node.yaml");
    for case in golden() {
        let query: Query = serde_json::from_value(case.query.clone()).unwrap();
        let mut args = vec!["explain".to_owned(), query.pod.to_string(), format!("--{}", query.direction)];
        args.extend(["--snapshot".to_owned(), snapshot.display().to_string()]);
        args.extend([format!("--protocol={}", query.protocol), format!("--remote={}", query.remote)]);
        args.extend(query.port.map(|port| format!("--port={port}")));
        args.extend(query.icmp_type.map(|icmp_type| format!("--icmp-type={icmp_type}")));
        args.extend(query.icmp_code.map(|code| format!("--icmp-code={code}")));
        let run = run(&args);
        let verdict = case.expected["verdict"].as_str().unwrap();
        assert_eq!(run.code, i32::from(verdict == "deny"), "{args:?}: {run:?}");
        assert!(run.stdout.starts_with(verdict), "{args:?}: {run:?}");
        if let Some(rule) = case.expected["rule"].as_str() {
            assert!(run.stdout.contains(rule), "{args:?}: {run:?}");
        }
    }
}

#[test]
fn a_bad_line_is_named_and_nothing_is_answered() {
    let good = r#"{"pod":"shop/web-0","direction":"egress","protocol":"tcp","remote":"10.0.0.1","port":1}"#;
    for (bad, wanted) in [
        (good.replace("shop/web-0", "shop/web-9"), "standard input:4: pod: shop/web-9"),
        (good.replace("shop/web-0", "web-0"), "standard input:4: pod: "),
        (good.replace("egress", "out"), "standard input:4: direction: unknown variant `out`"),
        (good.replace("\"tcp\"", "\"tpc\""), "standard input:4: protocol: protocol \"tpc\" is unknown"),
        (good.replace("\"tcp\"", "256"), "standard input:4: protocol: protocol \"256\" is unknown"),
        (good.replace("10.0.0.1", "10.0.0"), "standard input:4: remote: "),
        (good.replace(":1}", ":-1}"), "standard input:4: port: invalid value: integer `-1`"),
        (good.replace(",\"port\":1", ""), "standard input:4: port: missing"),
        (good.replace("\"tcp\"", "\"icmp\""), "standard input:4: port: protocol icmp has no ports"),
        (good.replace("\"port\"", "\"ports\""), "standard input:4: ports: unknown field `ports`"),
        (good.replace(":1}", ":1"), "standard input:4: EOF while parsing"),
        ("[]".to_owned(), "standard input:4: "),
    ] {
        // The empty line counts, though it asks nothing.
        let run = asked(&format!("{good}\n\n{good}\n{bad}\n{good}\n"));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{bad}");
        assert!(run.stderr.starts_with(&format!("error: {wanted}")), "{bad}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
}

#[test]
fn a_file_of_questions_is_named_in_its_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.ndjson");
    fs::write(&path, "{}\n").unwrap();
    let (snapshot, queries) = (data("node.yaml"), path.display().to_string());
    let run = run(["explain", "--snapshot", snapshot.to_str().unwrap(), "--queries", &queries]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains(&format!("{queries}:1: missing field `pod`")), "{}", run.stderr);
}

#[test]
fn no_questions_have_no_answers() {
    let run = asked("\n  \n");
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""));
}

#[test]
fn rules_and_groups_can_be_read_from_a_file() {
    let snapshot = data("node.yaml");
    let read = |args: &[&str]| run(args.iter().copied().chain(["--snapshot", snapshot.to_str().unwrap()]));
    let rules: Vec<RuleStatus> = parsed(&read(&["rules", "shop/db-0", "--json"]));
    let ids: Vec<&str> = rules.iter().map(|status| status.rule.id.as_ref().unwrap().as_str()).collect();
    assert_eq!(ids, ["sgr-db", "sgr-db-backup"]);
    // The web pod has two addresses; the backup group is one prefix.
    assert_eq!(rules.iter().map(|status| status.targets).collect::<Vec<_>>(), [2, 1]);
    let table = read(&["rules", "shop/db-0"]).stdout;
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.starts_with("DIRECTION  PROTOCOL"), "{table}");

    let groups: Vec<GroupStatus> = parsed(&read(&["groups", "--json"]));
    assert_eq!(groups.len(), 5);
    let web: GroupStatus = parsed(&read(&["groups", "sg-web", "--json"]));
    assert_eq!((web.ingress_rules, web.egress_rules, web.members), (4, 2, 2));
    assert!(read(&["groups", "sg-web"]).stdout.contains("sgr-web-esp"));

    let unknown = read(&["rules", "shop/db-9"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (2, ""));
    assert!(
        unknown.stderr.contains("node.yaml: pods: shop/db-9 is not in the snapshot; did you mean shop/db-0?"),
        "{}",
        unknown.stderr
    );
    assert_eq!(read(&["groups", "sg-none"]).code, 2);
}

/// A copy of the node with these words replaced, as a file.
fn changed(folder: &TempDir, changes: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(data("node.yaml")).unwrap();
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replacen(old, new, 1);
    }
    let path = folder.path().join("changed.yaml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_deny_names_the_nearest_rule() {
    let snapshot = data("node.yaml").display().to_string();
    let packet = "explain shop/db-0 --ingress --protocol tcp --remote 10.0.1.10 --port 5433 --snapshot";
    let ask = |more: &[&str]| run(packet.split(' ').chain([snapshot.as_str()]).chain(more.iter().copied()));
    let shown = ask(&[]).stdout;
    assert!(shown.lines().nth(1).unwrap().contains("nearest is sgr-db of sg-db"), "{shown}");
    let explained: Explained = serde_json::from_str(&ask(&["--json"]).stdout).unwrap();
    let nearest = explained.nearest.unwrap();
    assert_eq!((nearest.rule.unwrap().as_str(), nearest.differs), ("sgr-db", vec![Difference::Port]));

    let query =
        r#"{"pod":"shop/db-0","direction":"ingress","protocol":"tcp","remote":"10.0.1.10","port":5433}"#;
    let base: Value = serde_json::from_str(&asked(query).stdout).unwrap();
    assert_eq!(base.as_object().unwrap().len(), 5, "{base}");
    let args = ["explain", "--snapshot", &snapshot, "--queries", "-", "--json", "--nearest"];
    let told: Value = serde_json::from_str(&run_with_input(args, query).stdout).unwrap();
    assert_eq!(told["nearest"]["rule"], "sgr-db");
}

#[test]
fn what_opens_and_closes_between_two_snapshots_is_told_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let old = data("node.yaml").display().to_string();
    let new = changed(
        &folder,
        &[(
            "FromPort: 443, ToPort: 443, CidrIpv4: 10.0.0.0/16",
            "FromPort: 443, ToPort: 444, CidrIpv4: 10.0.0.0/17",
        )],
    );
    let diff = |old: &str, new: &str, more: &[&str]| run(["rules", "diff", old, new].iter().chain(more));
    let changes: Vec<SpaceChange> = parsed(&diff(&old, &new, &["--json"]));
    let told: Vec<String> = changes
        .iter()
        .map(|change| {
            let remotes: Vec<String> = change.remotes.iter().map(ToString::to_string).collect();
            let ports = change.ports.as_deref().unwrap_or("-");
            format!(
                "{:?} {} {} {ports} {}",
                change.change,
                change.direction,
                change.protocol,
                remotes.join(",")
            )
        })
        .collect();
    assert_eq!(told, ["Opens ingress tcp 444 10.0.0.0/17", "Closes ingress tcp 443 10.0.128.0/17"]);
    assert!(changes.iter().all(|change| change.pods.len() == 1 && change.pods[0].as_str() == "shop/web-0"));
    let table = diff(&old, &new, &["--exit-code"]);
    assert_eq!(table.code, 1);
    let shown = squeezed(&table.stdout);
    assert!(shown.contains("opens ingress tcp 444 10.0.0.0/17 shop/web-0"), "{shown}");
    let same = diff(&old, &old, &["--exit-code"]);
    assert_eq!((same.code, same.stdout.as_str()), (0, "nothing opens, nothing closes\n"));
    assert_eq!(diff(&old, "/nonexistent.yaml", &[]).code, 2);
}

#[test]
fn lint_names_what_deserves_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let path = changed(&folder, &[("GroupId: sg-backup}", "GroupId: sg-gone}")]);
    let findings: Vec<Finding> = parsed(&run(["rules", "lint", &path, "--json"]));
    let found = |kind: FindingKind, rule: Option<&str>| {
        findings
            .iter()
            .any(|finding| finding.kind == kind && finding.rule.as_ref().map(|id| id.as_str()) == rule)
    };
    assert!(found(FindingKind::WorldOpen, Some("sgr-open-in")), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.kind == FindingKind::MissingReference), "{findings:?}");
    assert!(found(FindingKind::UnusedGroup, None), "{findings:?}");
    let shown = run(["rules", "lint", &path, "--exit-code"]);
    assert_eq!(shown.code, 1);
    assert!(shown.stdout.contains("world-open") && shown.stdout.contains("sgr-open-in"), "{}", shown.stdout);
    assert_eq!(run(["rules", "lint", &path]).code, 0);
}

fn parsed<T: serde::de::DeserializeOwned>(run: &Run) -> T {
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.ndjson");
    fs::write(&path, format!("{}\n", golden()[0].query).repeat(20_000)).unwrap();
    let mut child = espalier()
        .args(["explain", "--json", "--snapshot"])
        .arg(data("node.yaml"))
        .arg("--queries")
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"verdict\":\"allow\""), "{line}");
    let end = Run::from(child.wait_with_output().unwrap());
    assert_eq!((end.code, end.stderr.as_str()), (0, ""));
}
