//! A draft as the JSON of a snapshot, at a cost that follows what changed.
//!
//! A group's, a list's and a member set's text is kept as long as the thing itself is the same allocation; a section
//! without a change is sent from the same buffer again.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use espalier_api::{Address, Generation, GroupId, PrefixList, PrefixListId, SecurityGroup};
use hyper::body::Bytes;
use serde::Serialize;

use crate::desired::Draft;

/// Turns drafts into JSON.
#[derive(Default)]
pub struct Encoder {
    groups: Section<GroupId, SecurityGroup>,
    lists: Section<PrefixListId, PrefixList>,
    members: Section<GroupId, Vec<Address>>,
}

/// Texts of one kind of things.
struct Section<K, V> {
    texts: HashMap<K, (Arc<V>, Vec<u8>)>,
    whole: Bytes,
}

impl<K, V> Default for Section<K, V> {
    fn default() -> Self {
        Self { texts: HashMap::new(), whole: Bytes::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord, V: Serialize> Section<K, V> {
    /// The things' texts, joined by commas, each after what `head` writes.
    fn encode(&mut self, things: &BTreeMap<K, Arc<V>>, head: fn(&K, &mut Vec<u8>)) -> Option<Bytes> {
        let before = self.texts.len();
        self.texts.retain(|key, _| things.contains_key(key));
        let mut same = self.texts.len() == before;
        for (key, thing) in things {
            if self.texts.get(key).is_some_and(|(known, _)| Arc::ptr_eq(known, thing)) {
                continue;
            }
            same = false;
            let mut text = Vec::new();
            head(key, &mut text);
            serde_json::to_writer(&mut text, &**thing).ok()?;
            self.texts.insert(key.clone(), (Arc::clone(thing), text));
        }
        if !same {
            let length = self.texts.values().map(|(_, text)| text.len() + 1).sum();
            let mut whole = Vec::with_capacity(length);
            for (index, key) in things.keys().enumerate() {
                if index > 0 {
                    whole.push(b',');
                }
                whole.extend_from_slice(&self.texts.get(key)?.1);
            }
            self.whole = whole.into();
        }
        Some(self.whole.clone())
    }
}

impl Encoder {
    /// The snapshot in parts; `None` for a draft without a trunk, which is none yet.
    pub fn encode(&mut self, draft: &Draft, generation: Generation) -> Option<Vec<Bytes>> {
        let mut head = b"{\"generation\":".to_vec();
        serde_json::to_writer(&mut head, &generation).ok()?;
        head.extend_from_slice(b",\"vpc\":");
        serde_json::to_writer(&mut head, &draft.vpc).ok()?;
        head.extend_from_slice(b",\"trunk\":");
        serde_json::to_writer(&mut head, draft.trunk.as_ref()?).ok()?;
        head.extend_from_slice(b",\"pods\":");
        serde_json::to_writer(&mut head, &draft.pods.values().collect::<Vec<_>>()).ok()?;
        head.extend_from_slice(b",\"securityGroups\":[");
        Some(vec![
            head.into(),
            self.groups.encode(&draft.groups, |_, _| {})?,
            Bytes::from_static(b"],\"prefixLists\":["),
            self.lists.encode(&draft.prefix_lists, |_, _| {})?,
            Bytes::from_static(b"],\"groupMembers\":{"),
            // An id's characters need no escape.
            self.members.encode(&draft.members, |id, text| {
                text.extend_from_slice(format!("\"{id}\":").as_bytes());
            })?,
            Bytes::from_static(b"}}"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_api::Snapshot;

    fn draft() -> Draft {
        let yaml = "
generation: 1
vpc: {id: vpc-1, cidrs: [10.0.0.0/16]}
trunk: {interface: t}
pods:
  - {name: a/b, uid: u, eniId: eni-1, vlan: 1, mac: '06:00:00:00:00:01', addresses: [10.0.0.9], subnets: [10.0.0.0/24],
     veth: v, securityGroups: [sg-1, sg-2]}
securityGroups: [{groupId: sg-1, rules: [{IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}]}, {groupId: sg-2, rules: []}]
prefixLists: [{prefixListId: pl-1, addressFamily: IPv4, entries: [10.0.0.0/8]}]
groupMembers: {sg-1: [10.0.0.1, 10.0.0.2], sg-9: []}
";
        Draft::from_snapshot(Snapshot::from_yaml(yaml).unwrap())
    }

    fn decoded(parts: Vec<Bytes>) -> Snapshot {
        Snapshot::from_json(&parts.concat()).unwrap()
    }

    #[test]
    fn the_text_is_that_of_the_snapshot() {
        let (draft, mut encoder) = (draft(), Encoder::default());
        for generation in [Generation(1), Generation(2)] {
            let parts = encoder.encode(&draft, generation).unwrap();
            assert_eq!(decoded(parts), draft.to_snapshot(generation).unwrap());
        }
    }

    #[test]
    fn only_what_changed_is_written_again() {
        let (mut draft, mut encoder) = (draft(), Encoder::default());
        let before = encoder.encode(&draft, Generation(1)).unwrap();
        draft.members.insert("sg-9".parse().unwrap(), Arc::new(vec!["10.0.0.3".parse().unwrap()]));
        draft.members.remove(&"sg-1".parse().unwrap());
        let after = encoder.encode(&draft, Generation(2)).unwrap();
        assert_eq!(before[1].as_ptr(), after[1].as_ptr());
        assert_ne!(before[5].as_ptr(), after[5].as_ptr());
        assert_eq!(decoded(after), draft.to_snapshot(Generation(2)).unwrap());
    }
}
