//! The requests themselves: paged, counted against the budget, tried again when a moment may help.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::Filter;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use espalier_api::agent::RequestUse;
use espalier_api::{GroupId, PrefixListId};
use ipnet::IpNet;

use super::budget::Budget;
use super::convert;
use super::failure::{Action, Failure};
use super::knowledge::{Answer, Entries, RuleIds};
use super::plan::Request;
use crate::facts::GroupSelector;

/// Tries of one request that fails for a reason that may pass, and the first wait between two.
const TRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Pages of one answer; more are a fault of the other side.
const MOST_PAGES: u32 = 10_000;

/// Makes requests.
#[derive(Debug)]
pub(crate) struct Calls {
    client: Client,
    budget: Mutex<Budget>,
    /// A request had to wait for the budget since this was last asked.
    waited: AtomicBool,
}

/// One page: what was read of it, and the token of the next.
type Page<T, E> = Result<(Vec<T>, Option<String>), SdkError<E, HttpResponse>>;

impl Request {
    /// The call it is answered with.
    pub(crate) fn action(&self) -> Action {
        match self {
            Self::Interfaces(_) | Self::Members(_) => Action::DescribeNetworkInterfaces,
            Self::Groups(_) | Self::Named { .. } => Action::DescribeSecurityGroups,
            Self::RuleIds(_) => Action::DescribeSecurityGroupRules,
            Self::Lists(_) => Action::DescribeManagedPrefixLists,
            Self::Entries { .. } => Action::GetManagedPrefixListEntries,
            Self::Subnets(_) => Action::DescribeSubnets,
            Self::Vpcs(_) => Action::DescribeVpcs,
            Self::InstanceType(_) => Action::DescribeInstanceTypes,
        }
    }
}

impl Calls {
    pub(crate) fn new(client: Client, budget: Budget) -> Self {
        Self { client, budget: Mutex::new(budget), waited: AtomicBool::new(false) }
    }

    pub(crate) fn used(&self) -> RequestUse {
        self.budget().used(Instant::now())
    }

    /// Requests since the start.
    pub(crate) fn total(&self) -> u64 {
        self.budget().total()
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request, all its pages.
    pub(crate) async fn fetch(&self, request: Request) -> Result<Answer, Failure> {
        match request {
            Request::Interfaces(ids) => {
                let found = self.interfaces("network-interface-id", texts(&ids), |interface| {
                    let id = interface.network_interface_id()?.parse().ok()?;
                    Some((id, convert::interface(interface)))
                });
                Ok(Answer::Interfaces(ids, found.await?.into_iter().collect()))
            }
            Request::Groups(ids) => {
                let found = self.groups(vec![filter("group-id", texts(&ids))]).await?;
                Ok(Answer::Groups(ids, found))
            }
            Request::Named { vpc, selectors } => {
                let found = self.groups(vec![filter("vpc-id", vec![vpc]), named_filter(&selectors)]).await?;
                Ok(Answer::Named(selectors, found))
            }
            Request::RuleIds(ids) => {
                let found = self.rule_ids(texts(&ids)).await?;
                Ok(Answer::RuleIds(ids, found))
            }
            Request::Members(ids) => self.members(ids).await,
            Request::Lists(ids) => {
                let found = self.lists(texts(&ids)).await?;
                Ok(Answer::Lists(ids, found))
            }
            Request::Entries { list, version } => self.entries(list, version).await,
            Request::Subnets(ids) => {
                let found = self.subnets(ids.clone()).await?;
                Ok(Answer::Subnets(ids, found))
            }
            Request::Vpcs(ids) => {
                let found = self.vpcs(ids.clone()).await?;
                Ok(Answer::Vpcs(ids, found))
            }
            Request::InstanceType(id) => self.instance_type(id).await,
        }
    }

    async fn interfaces<T>(
        &self,
        name: &str,
        values: Vec<String>,
        mut each: impl FnMut(&aws_sdk_ec2::types::NetworkInterface) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let filter = filter(name, values);
        let mut found = Vec::new();
        self.pages(
            Action::DescribeNetworkInterfaces,
            |token| {
                let request = self.client.describe_network_interfaces().filters(filter.clone());
                let request = request.max_results(1000).set_next_token(token).send();
                async move {
                    request.await.map(|page| (page.network_interfaces.unwrap_or_default(), page.next_token))
                }
            },
            |page| found.extend(page.iter().filter_map(&mut each)),
        )
        .await?;
        Ok(found)
    }

    async fn members(&self, ids: Vec<GroupId>) -> Result<Answer, Failure> {
        let texts = texts(&ids);
        let mut members: HashMap<_, _> = ids.into_iter().map(|id| (id, Vec::new())).collect();
        self.interfaces("group-id", texts, |interface| {
            convert::add_members(&mut members, interface);
            None::<()>
        })
        .await?;
        Ok(Answer::Members(members))
    }

    async fn groups(&self, filters: Vec<Filter>) -> Result<Vec<convert::FetchedGroup>, Failure> {
        let mut found = Vec::new();
        self.pages(
            Action::DescribeSecurityGroups,
            |token| {
                let request = self.client.describe_security_groups().set_filters(Some(filters.clone()));
                let request = request.max_results(1000).set_next_token(token).send();
                async move {
                    request.await.map(|page| (page.security_groups.unwrap_or_default(), page.next_token))
                }
            },
            |page| found.extend(page.iter().filter_map(convert::group)),
        )
        .await?;
        Ok(found)
    }

    async fn rule_ids(&self, groups: Vec<String>) -> Result<HashMap<GroupId, RuleIds>, Failure> {
        let filter = filter("group-id", groups);
        let mut found: HashMap<GroupId, RuleIds> = HashMap::new();
        self.pages(
            Action::DescribeSecurityGroupRules,
            |token| {
                let request = self.client.describe_security_group_rules().filters(filter.clone());
                let request = request.max_results(1000).set_next_token(token).send();
                async move {
                    request.await.map(|page| (page.security_group_rules.unwrap_or_default(), page.next_token))
                }
            },
            |page| {
                // A rule that cannot be understood is reported with its group.
                for (group, key, id) in page.iter().flat_map(convert::rule_id) {
                    found.entry(group).or_default().insert(key, id);
                }
            },
        )
        .await?;
        Ok(found)
    }

    async fn lists(&self, ids: Vec<String>) -> Result<HashMap<PrefixListId, convert::ListHead>, Failure> {
        let filter = filter("prefix-list-id", ids);
        let mut found = HashMap::new();
        self.pages(
            Action::DescribeManagedPrefixLists,
            |token| {
                let request = self.client.describe_managed_prefix_lists().filters(filter.clone());
                let request = request.max_results(100).set_next_token(token).send();
                async move { request.await.map(|page| (page.prefix_lists.unwrap_or_default(), page.next_token)) }
            },
            |page| found.extend(page.iter().filter_map(convert::list_head)),
        )
        .await?;
        Ok(found)
    }

    async fn entries(&self, list: PrefixListId, version: Option<i64>) -> Result<Answer, Failure> {
        let (mut entries, mut odd) = (Vec::new(), None);
        self.pages(
            Action::GetManagedPrefixListEntries,
            |token| {
                let request = self.client.get_managed_prefix_list_entries().prefix_list_id(list.as_str());
                let request =
                    request.set_target_version(version).max_results(100).set_next_token(token).send();
                async move { request.await.map(|page| (page.entries.unwrap_or_default(), page.next_token)) }
            },
            |page| {
                for entry in page {
                    match entry.cidr().unwrap_or_default().parse() {
                        Ok(cidr) => entries.push(cidr),
                        Err(message) => odd = Some(message),
                    }
                }
            },
        )
        .await?;
        if let Some(message) = odd {
            let message: String = message;
            return Err(Failure::malformed(
                Action::GetManagedPrefixListEntries,
                format!("an entry of {list}: {message}"),
            ));
        }
        Ok(Answer::Entries(list, Entries { version, entries }))
    }

    async fn subnets(&self, ids: Vec<String>) -> Result<HashMap<String, Vec<IpNet>>, Failure> {
        let filter = filter("subnet-id", ids);
        let mut found = HashMap::new();
        self.pages(
            Action::DescribeSubnets,
            |token| {
                let request = self.client.describe_subnets().filters(filter.clone());
                let request = request.max_results(1000).set_next_token(token).send();
                async move { request.await.map(|page| (page.subnets.unwrap_or_default(), page.next_token)) }
            },
            |page| {
                let blocks = |subnet: &aws_sdk_ec2::types::Subnet| {
                    Some((subnet.subnet_id()?.to_owned(), convert::subnet_blocks(subnet)))
                };
                found.extend(page.iter().filter_map(blocks));
            },
        )
        .await?;
        Ok(found)
    }

    async fn vpcs(&self, ids: Vec<String>) -> Result<HashMap<String, Vec<IpNet>>, Failure> {
        let filter = filter("vpc-id", ids);
        let mut found = HashMap::new();
        self.pages(
            Action::DescribeVpcs,
            |token| {
                let request = self.client.describe_vpcs().filters(filter.clone());
                let request = request.max_results(1000).set_next_token(token).send();
                async move { request.await.map(|page| (page.vpcs.unwrap_or_default(), page.next_token)) }
            },
            |page| {
                let blocks = |vpc: &aws_sdk_ec2::types::Vpc| {
                    Some((vpc.vpc_id()?.to_owned(), convert::vpc_blocks(vpc)))
                };
                found.extend(page.iter().filter_map(blocks));
            },
        )
        .await?;
        Ok(found)
    }

    async fn instance_type(&self, id: String) -> Result<Answer, Failure> {
        let filter = filter("instance-type", vec![id.clone()]);
        let mut defaults = None;
        self.pages(
            Action::DescribeInstanceTypes,
            |token| {
                let request = self.client.describe_instance_types().filters(filter.clone());
                let request = request.max_results(100).set_next_token(token).send();
                async move { request.await.map(|page| (page.instance_types.unwrap_or_default(), page.next_token)) }
            },
            |page| defaults = defaults.or_else(|| page.first().map(convert::tracking_defaults)),
        )
        .await?;
        Ok(Answer::InstanceType(id, defaults.unwrap_or_default()))
    }

    /// Reads page after page.
    async fn pages<T, E, F>(
        &self,
        action: Action,
        call: impl Fn(Option<String>) -> F,
        mut each: impl FnMut(&[T]),
    ) -> Result<(), Failure>
    where
        F: Future<Output = Page<T, E>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let mut token = None;
        for _ in 0..MOST_PAGES {
            let (page, next) = self.page(action, || call(token.clone())).await?;
            each(&page);
            match next.filter(|next| !next.is_empty()) {
                None => return Ok(()),
                Some(next) if token.as_ref() == Some(&next) => {
                    return Err(Failure::malformed(action, "the same NextToken twice"));
                }
                Some(next) => token = Some(next),
            }
        }
        Err(Failure::malformed(action, format!("more than {MOST_PAGES} pages")))
    }

    /// One page, within the budget, tried again where that may help.
    async fn page<T, E, F>(
        &self,
        action: Action,
        call: impl Fn() -> F,
    ) -> Result<(Vec<T>, Option<String>), Failure>
    where
        F: Future<Output = Page<T, E>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let mut tries = 1;
        loop {
            self.take().await;
            let failure = match call().await {
                Ok(page) => return Ok(page),
                Err(error) => Failure::of(action, &error, SystemTime::now()),
            };
            tracing::debug!(%action, tries, ?failure, "a request failed");
            if !failure.is_transient() || tries == TRIES {
                return Err(failure);
            }
            // Full jitter: nodes that failed together do not come back together.
            tokio::time::sleep(FIRST_WAIT.mul_f64(f64::from(1 << tries) * rand::random::<f64>())).await;
            tries += 1;
        }
    }

    /// Waits until the budget has room for one more request.
    async fn take(&self) {
        loop {
            let taken = self.budget().take(Instant::now());
            match taken {
                Ok(()) => return,
                Err(wait) => {
                    self.waited.store(true, Ordering::Relaxed);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Whether the budget made a request wait since the last time this was asked.
    pub(crate) fn take_waited(&self) -> bool {
        self.waited.swap(false, Ordering::Relaxed)
    }
}

fn texts<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn filter(name: &str, values: Vec<String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// The filter for selectors that are all names, or tags with one key.
fn named_filter(selectors: &[GroupSelector]) -> Filter {
    let mut name = "group-name".to_owned();
    let values = selectors.iter().map(|selector| match selector {
        GroupSelector::Name(name) => literal(name),
        GroupSelector::Tag { key, value } => {
            name = format!("tag:{key}");
            literal(value)
        }
    });
    let values = values.collect();
    filter(&name, values)
}

/// A filter's value without its wildcards (EC2 user guide, "Filter resources by wildcard").
fn literal(text: &str) -> String {
    let mut literal = String::new();
    for character in text.chars() {
        if matches!(character, '*' | '?' | '\\') {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_names_are_letters() {
        assert_eq!(literal(r"a*b?c\d"), r"a\*b\?c\\d");
        let tag = |value: &str| GroupSelector::Tag { key: "team".into(), value: value.into() };
        let filter = named_filter(&[tag("a"), tag("*")]);
        assert_eq!(filter.name(), Some("tag:team"));
        assert_eq!(filter.values(), ["a", r"\*"]);
    }
}
