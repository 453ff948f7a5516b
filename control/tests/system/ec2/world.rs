//! A VPC of its own for each test, a proxy to EC2, and the source under test with short intervals.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    AddPrefixListEntry, IpPermission, IpRange, PrefixListId as ListReference, Tag, UserIdGroupPair,
};
use espalier_api::agent::{Problem, ProblemReason};
use espalier_api::{EniId, GroupId, PrefixListId};
use espalier_control::ec2::{Ec2, Ec2Settings, Polling};
use espalier_control::facts::{Facts, FactsSource as _, Wanted};
use tempfile::NamedTempFile;
use tokio::sync::watch;

use crate::kit::fault_proxy::FaultProxy;
use crate::kit::moto;

/// Longest wait for something that should happen within a poll or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// Polls so often that a test need not wait.
pub(crate) const BRISK: Polling = Polling {
    base: Duration::from_millis(100),
    floor: Duration::from_millis(50),
    ceiling: Duration::from_millis(200),
    budget: 1_000_000,
};

/// Polls once, and again only for a new wish.
pub(crate) const ONCE: Polling = Polling {
    base: Duration::from_secs(3600),
    floor: Duration::from_secs(3600),
    ceiling: Duration::from_secs(3600),
    budget: 1_000_000,
};

/// EC2 with one VPC, and a way to it that can be broken.
pub(crate) struct World {
    pub(crate) ec2: Client,
    pub(crate) proxy: FaultProxy,
    pub(crate) vpc: String,
    pub(crate) subnet: String,
}

/// A started source.
pub(crate) struct Source {
    wanted: watch::Sender<Arc<Wanted>>,
    facts: watch::Receiver<Arc<Facts>>,
    _credentials: NamedTempFile,
}

impl World {
    pub(crate) async fn new() -> Self {
        let proxy = FaultProxy::start(moto::url()).await;
        let ec2 = moto::client();
        let vpc = ec2.create_vpc().cidr_block("10.0.0.0/16").send().await.unwrap().vpc.unwrap();
        let vpc = vpc.vpc_id.unwrap();
        let subnet = ec2.create_subnet().vpc_id(&vpc).cidr_block("10.0.1.0/24").send().await.unwrap();
        let subnet = subnet.subnet.unwrap().subnet_id.unwrap();
        Self { ec2, proxy, vpc, subnet }
    }

    /// A group without rules.
    pub(crate) async fn group(&self, name: &str) -> GroupId {
        let made =
            self.ec2.create_security_group().vpc_id(&self.vpc).group_name(name).description("a test's");
        let id = made.send().await.unwrap().group_id.unwrap();
        let all = IpPermission::builder()
            .ip_protocol("-1")
            .ip_ranges(IpRange::builder().cidr_ip("0.0.0.0/0").build())
            .build();
        self.ec2.revoke_security_group_egress().group_id(&id).ip_permissions(all).send().await.unwrap();
        id.parse().unwrap()
    }

    pub(crate) async fn allow(&self, group: &GroupId, permission: IpPermission) {
        let request = self.ec2.authorize_security_group_ingress().group_id(group.as_str());
        request.ip_permissions(permission).send().await.unwrap();
    }

    pub(crate) async fn revoke(&self, group: &GroupId, permission: IpPermission) {
        let request = self.ec2.revoke_security_group_ingress().group_id(group.as_str());
        request.ip_permissions(permission).send().await.unwrap();
    }

    /// An interface with this address and these groups.
    pub(crate) async fn interface(&self, address: &str, groups: &[&GroupId]) -> EniId {
        let request = self.ec2.create_network_interface().subnet_id(&self.subnet).private_ip_address(address);
        let groups = groups.iter().map(ToString::to_string).collect();
        let made = request.set_groups(Some(groups)).send().await.unwrap();
        made.network_interface.unwrap().network_interface_id.unwrap().parse().unwrap()
    }

    pub(crate) async fn move_interface(&self, interface: &EniId, groups: &[&GroupId]) {
        let request = self.ec2.modify_network_interface_attribute().network_interface_id(interface.as_str());
        let groups = groups.iter().map(ToString::to_string).collect();
        request.set_groups(Some(groups)).send().await.unwrap();
    }

    pub(crate) async fn list(&self, name: &str, entries: &[&str]) -> PrefixListId {
        let entries = entries.iter().map(|cidr| AddPrefixListEntry::builder().cidr(*cidr).build()).collect();
        let request = self.ec2.create_managed_prefix_list().prefix_list_name(name).max_entries(20);
        let made = request.address_family("IPv4").set_entries(Some(entries)).send().await.unwrap();
        made.prefix_list.unwrap().prefix_list_id.unwrap().parse().unwrap()
    }

    /// A group whose rules refer to another group and to a prefix list: the group, the other, the list.
    pub(crate) async fn referring(&self) -> (GroupId, GroupId, PrefixListId) {
        let (web, db) = (self.group("web").await, self.group("db").await);
        let list = self.list("offices", &["192.0.2.0/24"]).await;
        self.allow(&web, from_group(5432, &db)).await;
        self.allow(&web, from_list(22, &list)).await;
        (web, db, list)
    }

    pub(crate) async fn tag(&self, resource: &str, key: &str, value: &str) {
        let tag = Tag::builder().key(key).value(value).build();
        self.ec2.create_tags().resources(resource).tags(tag).send().await.unwrap();
    }

    /// Starts the source.
    pub(crate) fn start(&self, polling: Polling, wanted: Wanted) -> Source {
        start_at(&self.proxy.url(), polling, wanted)
    }
}

/// Starts the source against a server; it gets its credentials from a file, by the default chain.
pub(crate) fn start_at(endpoint: &str, polling: Polling, wanted: Wanted) -> Source {
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = secret\n").unwrap();
    let settings = Ec2Settings {
        region: Some("eu-west-1".to_owned()),
        endpoint: Some(endpoint.to_owned()),
        credentials_file: Some(file.path().to_owned()),
        request_timeout: Duration::from_secs(5),
        polling,
    };
    let (wanted, receiver) = watch::channel(Arc::new(wanted));
    let facts = Box::new(Ec2::new(settings)).start(receiver);
    Source { wanted, facts, _credentials: file }
}

impl Source {
    /// The first facts that are as they should be.
    pub(crate) async fn until(&mut self, what: &str, right: impl Fn(&Facts) -> bool) -> Arc<Facts> {
        self.until_in(PATIENCE, what, right).await
    }

    /// The same, with more patience or less.
    pub(crate) async fn until_in(
        &mut self,
        patience: Duration,
        what: &str,
        right: impl Fn(&Facts) -> bool,
    ) -> Arc<Facts> {
        let waited = tokio::time::timeout(patience, self.facts.wait_for(|facts| right(facts))).await;
        let found = waited.ok().map(|facts| Arc::clone(&facts.expect("the source runs")));
        found.unwrap_or_else(|| panic!("{what} did not come to pass: {:#?}", self.facts.borrow().problems))
    }

    /// The facts after the next round.
    pub(crate) async fn next(&mut self) -> Arc<Facts> {
        self.facts.mark_unchanged();
        let changed = tokio::time::timeout(PATIENCE, self.facts.changed()).await;
        changed.expect("a round ends").expect("the source runs");
        Arc::clone(&self.facts.borrow_and_update())
    }

    /// The facts once everything has been answered without a failure.
    pub(crate) async fn settled(&mut self) -> Arc<Facts> {
        self.until("a complete answer", |facts| facts.complete && facts.problems.is_empty()).await
    }

    /// Changes the wish; what the change returns is of no interest.
    pub(crate) fn want<T>(&self, change: impl FnOnce(&mut Wanted) -> T) {
        self.wanted.send_modify(|wanted| {
            change(Arc::make_mut(wanted));
        });
    }
}

/// A wish for interfaces and the groups they have.
pub(crate) fn interfaces<'a>(ids: impl IntoIterator<Item = &'a EniId>) -> Wanted {
    let interfaces: BTreeSet<_> = ids.into_iter().cloned().collect();
    Wanted { interfaces, follow_interfaces: true, ..Wanted::default() }
}

/// A wish for groups.
pub(crate) fn groups<'a>(ids: impl IntoIterator<Item = &'a GroupId>) -> Wanted {
    Wanted { groups: ids.into_iter().cloned().collect(), ..Wanted::default() }
}

pub(crate) fn tcp(port: i32) -> aws_sdk_ec2::types::builders::IpPermissionBuilder {
    IpPermission::builder().ip_protocol("tcp").from_port(port).to_port(port)
}

pub(crate) fn from_cidr(port: i32, cidr: &str) -> IpPermission {
    tcp(port).ip_ranges(IpRange::builder().cidr_ip(cidr).build()).build()
}

pub(crate) fn from_group(port: i32, group: &GroupId) -> IpPermission {
    tcp(port).user_id_group_pairs(UserIdGroupPair::builder().group_id(group.as_str()).build()).build()
}

pub(crate) fn from_list(port: i32, list: &PrefixListId) -> IpPermission {
    tcp(port).prefix_list_ids(ListReference::builder().prefix_list_id(list.as_str()).build()).build()
}

/// Reasons and subjects of the problems.
pub(crate) fn problems(facts: &Facts) -> Vec<(ProblemReason, &str)> {
    facts.problems.iter().map(|Problem { reason, subject, .. }| (*reason, subject.as_str())).collect()
}

/// Members of a group as text.
pub(crate) fn members(facts: &Facts, group: &GroupId) -> Option<Vec<String>> {
    let members = facts.members.get(group)?;
    Some(members.iter().map(|address| address.net().to_string()).collect())
}

/// A group's rules as text: direction, protocol, other end.
pub(crate) fn rules(facts: &Facts, group: &GroupId) -> Option<Vec<String>> {
    let group = facts.groups.get(group)?;
    let text = |rule: &espalier_api::SecurityGroupRule| {
        format!("{} {} {}", rule.direction, rule.protocol, rule.target)
    };
    Some(group.rules.iter().map(text).collect())
}
