//! A node with 250 pods in a Region with 1,000 groups, 60,000 rules and 100,000 members.

use std::time::{Duration, Instant};

use espalier_control::facts::Wanted;

use super::world::{BRISK, ONCE, start_at};
use crate::kit::big_ec2::{BigEc2, Size, group, pod_interface};

const SIZE: Size = Size::LARGE;

/// The machine may be busy with other tests; the figures in docs/PERFORMANCE.md are of a quiet one.
const PATIENCE: Duration = Duration::from_secs(120);

fn wanted() -> Wanted {
    Wanted {
        interfaces: (0..SIZE.pods).map(|index| pod_interface(index).parse().unwrap()).collect(),
        groups: (0..SIZE.groups).map(|index| group(index).parse().unwrap()).collect(),
        follow_interfaces: true,
        ..Wanted::default()
    }
}

#[tokio::test]
async fn a_large_region_is_read_whole_within_the_default_budget() {
    let server = BigEc2::start(SIZE).await;
    let begun = Instant::now();
    let mut source = start_at(&server.url(), ONCE, wanted());
    let facts = source.until_in(PATIENCE, "a complete answer", |facts| facts.complete).await;
    let took = begun.elapsed();
    assert_eq!(facts.problems, []);
    assert_eq!((facts.interfaces.len(), facts.groups.len()), (SIZE.pods, SIZE.groups));
    let rules = || facts.groups.values().flat_map(|group| &group.rules);
    assert_eq!(rules().count(), SIZE.groups * SIZE.rules_per_group);
    assert!(rules().all(|rule| rule.id.is_some()));
    let members: usize = facts.members.values().map(|members| members.len()).sum();
    assert_eq!(members, SIZE.interfaces * SIZE.addresses);
    // 2 for the pods, 5 for the groups, 12 pages of rules for each 200 groups, 3 pages of members for each 200.
    assert_eq!(facts.requests.unwrap().total, 2 + 5 + 5 * 12 + 5 * 3 + 2);
    println!("full sync: {took:?}, {} requests", facts.requests.unwrap().total);

    let mut source = start_at(&server.url(), BRISK, wanted());
    source.until_in(PATIENCE, "a complete answer", |facts| facts.complete).await;
    let before = source.next().await.requests.unwrap().total;
    let begun = Instant::now();
    let after = source.next().await;
    assert_eq!(after.requests.unwrap().total - before, 2 + 5 + 5 * 3, "rules are not read again");
    println!("poll without a change: {:?}", begun.elapsed());
}
