//! `-o table|wide|json|yaml`: the same answer in each form, and tables that fit a terminal of 80 columns.

use std::fs;

use serde_json::Value;

use crate::support::{data, run};
use crate::terminal::on_a_terminal;

fn groups(flags: &[&str]) -> String {
    let snapshot = data("node.yaml");
    let run = run([&["groups", "--snapshot", snapshot.to_str().unwrap()], flags].concat());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{flags:?}");
    run.stdout
}

#[test]
fn json_and_yaml_say_the_same() {
    let json: Value = serde_json::from_str(&groups(&["-o", "json"])).unwrap();
    assert_eq!(json, serde_json::from_str::<Value>(&groups(&["--json"])).unwrap());
    assert_eq!(json, serde_saphyr::from_str::<Value>(&groups(&["--output", "yaml"])).unwrap());
    assert!(json.as_array().is_some_and(|groups| groups.len() == 5), "{json}");
}

#[test]
fn a_wide_table_has_more_columns() {
    let headings = |flags: &[&str]| groups(flags).lines().next().unwrap().to_owned();
    assert_eq!(headings(&[]), headings(&["-o", "table"]));
    assert!(!headings(&[]).contains("EGRESS") && headings(&["-o", "wide"]).contains("EGRESS"));
}

#[test]
fn a_format_is_named_once_and_known() {
    for (flags, wanted) in
        [(["--json", "-oyaml"], "cannot be used with"), (["-o", "xml"], "table, wide, json, yaml")]
    {
        let run = run(["groups"].iter().chain(&flags));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{flags:?}");
        assert!(run.stderr.contains(wanted), "{}", run.stderr);
    }
}

/// A pod with EC2's long ids, and a rule for IPv6.
const LONG: &str = "generation: 1
trunk: {interface: eth1}
pods:
  - name: orders/checkout-service-7d9f8b6c54-x2x4z
    eniId: eni-0a1b2c3d4e5f60718
    vlan: 3
    mac: 02:25:0a:00:00:07
    addresses: [10.0.1.10, '2600:1f18:1234:5678:9abc:def0:1234:5678']
    subnets: [10.0.1.0/24, '2600:1f18:1234:5678::/64']
    veth: eni4f1a2b3c4d5
    securityGroups: [sg-0123456789abcdef0]
securityGroups:
  - groupId: sg-0123456789abcdef0
    groupName: checkout-service-production
    rules:
      - {SecurityGroupRuleId: sgr-0123456789abcdef0, IsEgress: true, IpProtocol: tcp, FromPort: 5432, ToPort: 5432,
         ReferencedGroupInfo: {GroupId: sg-0123456789abcdef0}}
      - {SecurityGroupRuleId: sgr-0123456789abcdef1, IpProtocol: icmpv6, FromPort: 128, ToPort: -1,
         CidrIpv6: '2600:1f18:1234:5678::/64', Description: reachability from the subnet}
";

#[test]
fn tables_fit_into_80_columns_and_break_no_id() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.yaml");
    fs::write(&path, LONG).unwrap();
    for command in ["groups", "rules orders/checkout-service-7d9f8b6c54-x2x4z"] {
        let line = format!("{command} --snapshot {}", path.display());
        let shown =
            on_a_terminal(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), 80, &[("NO_COLOR", "1")]);
        assert!(shown.contains("sg-0123456789abcdef0"), "{shown}");
        assert!(command == "groups" || shown.contains("sgr-0123456789abcdef1"), "{shown}");
        for line in shown.lines() {
            assert!(line.trim_end().len() <= 80, "{} columns: {line}", line.len());
        }
    }
}
