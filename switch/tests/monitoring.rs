//! What operators are given to watch the switch with: the list of metrics, the alerts and the dashboard agree with what is
//! exported, and promtool accepts them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use espalier_switch::metrics::table::{ALL, Kind};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The table of docs/METRICS.md as it must be.
fn table() -> String {
    let rows = ALL.iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!(
            "| `{}` | {} | {} | {} |\n",
            metric.full_name(),
            metric.kind.label(),
            labels.join(", "),
            metric.help
        )
    });
    rows.collect()
}

/// Names of the agent's metrics, as docs/METRICS.md lists them.
fn agents() -> BTreeSet<String> {
    let text = read("docs/METRICS.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `espalier_agent_"));
    rows.map(|row| format!("espalier_agent_{}", row.split('`').next().unwrap())).collect()
}

/// Every metric that a text mentions.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("espalier_")).map(ToOwned::to_owned).collect()
}

#[test]
fn the_list_of_metrics_is_what_is_exported() {
    let text = read("docs/METRICS.md");
    let table = table();
    assert!(text.contains(&table), "docs/METRICS.md must have this table:\n{table}");
    let source = read("control/src/metrics.rs");
    assert!(!agents().is_empty());
    for name in agents() {
        let stem = name
            .trim_start_matches("espalier_agent_")
            .trim_end_matches("_total")
            .trim_end_matches("_seconds");
        assert!(source.contains(&format!("\"{stem}\"")), "the agent does not export {name}");
    }
}

#[test]
fn the_dashboard_and_the_alerts_use_what_is_exported() {
    let mut exported = agents();
    exported.insert("espalier_agent_change_to_enforced_seconds_bucket".to_owned());
    for metric in ALL {
        exported.insert(metric.full_name());
        if metric.kind == Kind::Histogram {
            exported.insert(format!("{}_bucket", metric.full_name()));
        }
    }
    for path in ["deploy/grafana-dashboard.json", "deploy/prometheus-rules.yaml"] {
        let unknown: Vec<_> = mentioned(&read(path)).difference(&exported).cloned().collect();
        assert_eq!(unknown, Vec::<String>::new(), "{path}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana-dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
}

#[test]
fn the_alerts_fire_when_they_should() {
    for arguments in [
        ["check", "rules", "deploy/prometheus-rules.yaml"],
        ["test", "rules", "deploy/prometheus-rules.test.yaml"],
    ] {
        let said = Command::new("promtool").args(arguments).current_dir(root()).output();
        let said = said.unwrap_or_else(|error| panic!("promtool: {error}: `ci/setup test` installs it"));
        assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    }
}
