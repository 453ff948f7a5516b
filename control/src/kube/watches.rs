//! The watches of the agent: what is asked of the API server, and what is kept of each object.
//!
//! Every resource and verb here stands in `deploy/rbac.yaml`.

use futures_util::stream::{BoxStream, SelectAll, select_all};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, ResourceExt};

use crate::cluster::{Labels, NodeFacts, Policy, SecurityGroupPolicy};
use crate::cluster::{PodFacts, reduce};

/// Kinds of objects that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Pod,
    Policy,
    ServiceAccount,
    Namespace,
    Node,
    CniNode,
}

impl Kind {
    /// The resource's name in the API and in RBAC rules.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Policy => "securitygrouppolicies",
            Self::ServiceAccount => "serviceaccounts",
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::CniNode => "cninodes",
        }
    }

    /// The API group; empty for the core group.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Policy | Self::CniNode => "vpcresources.k8s.aws",
            Self::Pod | Self::ServiceAccount | Self::Namespace | Self::Node => "",
        }
    }
}

/// What is kept of an object.
pub(super) enum Object {
    Pod(PodFacts),
    Policy(Policy),
    ServiceAccount(Labels),
    Namespace(Labels),
    Node(NodeFacts),
    CniNode(bool),
}

/// Something a watch says.
pub(super) struct Notice {
    pub(super) kind: Kind,
    pub(super) what: NoticeKind,
}

pub(super) enum NoticeKind {
    /// A list begins.
    Begin,
    /// An object is there, as part of a list or not.
    Put { key: String, object: Object, listed: bool },
    /// An object is gone.
    Remove(String),
    /// The list is complete: what was not in it is gone.
    Complete,
    /// The watch failed and tries again.
    Failed(watcher::Error),
}

/// All watches, merged.
pub(super) fn all(client: &Client, node: &str) -> SelectAll<BoxStream<'static, Notice>> {
    let everything = watcher::Config::default;
    let this_node = everything().fields(&format!("metadata.name={node}"));
    let on_this_node = everything().fields(&format!("spec.nodeName={node}"));
    let cni_node = ApiResource {
        group: "vpcresources.k8s.aws".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "vpcresources.k8s.aws/v1alpha1".to_owned(),
        kind: "CNINode".to_owned(),
        plural: "cninodes".to_owned(),
    };
    select_all([
        notices(Kind::Pod, watch_objects(Api::<Pod>::all(client.clone()), on_this_node), |pod| {
            reduce::pod(pod).map(Object::Pod)
        }),
        notices(
            Kind::Policy,
            watch_objects(Api::<SecurityGroupPolicy>::all(client.clone()), everything()),
            |policy| Some(Object::Policy(Policy::new(policy))),
        ),
        notices(
            Kind::ServiceAccount,
            watch_objects(Api::<ServiceAccount>::all(client.clone()), everything()),
            |account| Some(Object::ServiceAccount(reduce::service_account(account))),
        ),
        notices(
            Kind::Namespace,
            watch_objects(Api::<Namespace>::all(client.clone()), everything()),
            |namespace| Some(Object::Namespace(reduce::namespace(namespace))),
        ),
        notices(Kind::Node, watch_objects(Api::<Node>::all(client.clone()), this_node.clone()), |node| {
            let mut facts = NodeFacts::default();
            reduce::node(node, &mut facts);
            Some(Object::Node(facts))
        }),
        notices(
            Kind::CniNode,
            watch_objects(Api::<DynamicObject>::all_with(client.clone(), &cni_node), this_node),
            |object| Some(Object::CniNode(reduce::asks_for_branches(&object.data))),
        ),
    ])
}

/// One watch's events in the words of [`Notice`].
fn notices<K: ResourceExt + Send + 'static>(
    kind: Kind,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    keep: fn(&K) -> Option<Object>,
) -> BoxStream<'static, Notice> {
    let put =
        move |object: &K, listed| Some(NoticeKind::Put { key: key(object), object: keep(object)?, listed });
    let translated = events.default_backoff().filter_map(move |event| {
        let what = match event {
            Ok(Event::Init) => Some(NoticeKind::Begin),
            Ok(Event::InitApply(object)) => put(&object, true),
            Ok(Event::Apply(object)) => put(&object, false),
            Ok(Event::Delete(object)) => Some(NoticeKind::Remove(key(&object))),
            Ok(Event::InitDone) => Some(NoticeKind::Complete),
            Err(error) => Some(NoticeKind::Failed(error)),
        };
        std::future::ready(what.map(|what| Notice { kind, what }))
    });
    translated.boxed()
}

/// `namespace/name`, or the name alone.
fn key<K: ResourceExt>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
