//! Snapshots for the unit tests of this crate.

use espalier_api::Snapshot;

/// Two pods, `default/web` with sg-1 and sg-2 and `default/db` with sg-2, and one delegated prefix in sg-2.
/// `groups` maps group ids to lists of rules; without it sg-1 and sg-2 are empty.
pub(crate) fn snapshot(groups: &str) -> Snapshot {
    let groups = if groups.is_empty() { "sg-1: []\nsg-2: []" } else { groups };
    let mut listed = String::new();
    for line in groups.lines() {
        match line.strip_prefix("sg-") {
            Some(line) => {
                let (id, rest) = line.split_once(':').unwrap();
                listed += &format!("  - groupId: sg-{id}\n    rules: {}\n", rest.trim());
            }
            None => listed += &format!("    {line}\n"),
        }
    }
    Snapshot::from_yaml(&format!(
        "
generation: 1
vpc: {{cidrs: [10.0.0.0/16, '2001:db8::/56']}}
trunk: {{interface: trunk0}}
pods:
  - {{name: default/web, eniId: eni-1, vlan: 1, mac: '06:00:00:00:00:01', addresses: [10.0.1.10, '2001:db8::10'], subnets: [10.0.1.0/24], veth: va, securityGroups: [sg-1, sg-2]}}
  - {{name: default/db, eniId: eni-2, vlan: 2, mac: '06:00:00:00:00:02', addresses: [10.0.1.11], subnets: [10.0.1.0/24], veth: vb, securityGroups: [sg-2]}}
securityGroups:
{listed}
groupMembers: {{sg-2: [10.0.9.0/28]}}
"
    ))
    .unwrap_or_else(|error| panic!("{error}\n{listed}"))
}
