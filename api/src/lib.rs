//! The words the switch, the agent and the CLI share: ids, [`Snapshot`], the control requests and replies.
//!
//! Everything here is plain data. Values are checked while they are parsed, so that code behind this crate never
//! sees a VLAN 0, a reversed port range or a rule with two targets; a refusal names the field and the fix
//! ([`InputError`]). Nothing here does I/O except [`file`], which reads
//! snapshot files, `settings`, which reads those of the programs, and [`socket`], which binds theirs.

pub mod agent;
pub mod control;
pub mod ec2;
pub mod error;
pub mod explain;
pub mod file;
pub mod filter;
pub mod flows;
pub mod hits;
pub mod ids;
pub mod protocol;
pub mod recording;
pub mod rule;
#[cfg(feature = "settings")]
pub mod settings;
pub mod snapshot;
pub mod socket;
pub mod trace;
mod validate;
pub mod watch;

pub use error::InputError;
pub use explain::{Answer, Difference, Explained, Nearest, Query, QueryProtocol, Verdict};
pub use ids::{EniId, Generation, GroupId, Mac, PodName, PrefixListId, RuleId, Vlan};
pub use rule::{
    Direction, Ec2Rule, Family, GroupReference, IcmpMatch, IpProtocolText, PortRange, ProtocolMatch,
    RuleTarget, SecurityGroupRule,
};
pub use snapshot::{
    Address, ConnectionTracking, Ec2Reference, Gateway, OnRuleChange, Pod, PrefixList, SecurityGroup,
    Snapshot, Trunk, Unfiltered, Vpc,
};

/// Version of the words in this crate: the control socket's `/v1` and the snapshot format.
///
/// It grows by one with every change that an older reader would misunderstand.
pub const VERSION: u32 = 1;
