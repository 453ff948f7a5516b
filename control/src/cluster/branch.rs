//! The annotation `vpc.amazonaws.com/pod-eni`: what the VPC resource controller says of a pod's branch ENI.
//!
//! Read as tolerantly as the AWS CNI reads it: any case of the keys, no IPv6 and no association in older ones, and
//! only the first element counts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use espalier_api::{EniId, Mac, Vlan};
use ipnet::IpNet;
use serde_json::Value;

/// The annotation's key.
pub const POD_ENI_ANNOTATION: &str = "vpc.amazonaws.com/pod-eni";

/// A branch ENI as the annotation describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// `eni-…`.
    pub eni_id: EniId,
    /// Its VLAN on the trunk.
    pub vlan: Vlan,
    /// Its MAC address.
    pub mac: Mac,
    /// IPv4 and IPv6 address, at least one.
    pub addresses: Vec<IpAddr>,
    /// CIDR blocks of the node's subnet.
    pub subnets: Vec<IpNet>,
}

impl Branch {
    /// Reads the annotation; the error names the field and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let list: Vec<BTreeMap<String, Value>> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON list of objects ({error})"))?;
        let first = list.into_iter().next().ok_or("an empty list: no branch ENI")?;
        let fields: BTreeMap<String, Value> =
            first.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect();
        let fields = Fields(fields);
        let addresses: Vec<IpAddr> = ["privateIp", "ipv6Addr"]
            .into_iter()
            .filter_map(|key| fields.optional(key).transpose())
            .collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err("[0]: neither privateIp nor ipv6Addr is given: a branch has an address".to_owned());
        }
        if let Some(odd) = addresses.iter().find(|address| !is_unicast(**address)) {
            return Err(format!("[0]: {odd} cannot be a pod's address: expected a unicast one"));
        }
        let vlan = fields.0.get("vlanid").ok_or("[0].vlanId is missing")?;
        Ok(Self {
            eni_id: fields.required("eniId")?,
            vlan: serde_json::from_value(vlan.clone()).map_err(|error| format!("[0].vlanId: {error}"))?,
            mac: fields.required("ifAddress")?,
            addresses,
            subnets: ["subnetCidr", "subnetV6Cidr"]
                .into_iter()
                .filter_map(|key| fields.optional(key).transpose())
                .collect::<Result<_, _>>()?,
        })
    }
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}

/// Fields by lower-case key.
struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// A text field, unless it is absent or empty.
    fn optional<T: std::str::FromStr<Err: std::fmt::Display>>(&self, key: &str) -> Result<Option<T>, String> {
        match self.0.get(&key.to_ascii_lowercase()) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => {
                text.parse().map(Some).map_err(|error| format!("[0].{key}: {text:?}: {error}"))
            }
            Some(other) => Err(format!("[0].{key}: {other} is not a text")),
        }
    }

    fn required<T: std::str::FromStr<Err: std::fmt::Display>>(&self, key: &str) -> Result<T, String> {
        self.optional(key)?.ok_or_else(|| format!("[0].{key} is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"[{"eniId":"eni-0a1","ifAddress":"06:25:00:00:00:01","privateIp":"192.168.53.199","ipv6Addr":"",
        "vlanId":2,"subnetCidr":"192.168.32.0/19","subnetV6Cidr":"","associationID":"trunk-assoc-1"}]"#;

    #[test]
    fn the_controllers_own_words_are_read() {
        let branch = Branch::parse(SAMPLE).unwrap();
        assert_eq!(branch.vlan.get(), 2);
        assert_eq!(branch.addresses, ["192.168.53.199".parse::<IpAddr>().unwrap()]);
        assert_eq!(branch.subnets, ["192.168.32.0/19".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn older_and_odder_spellings_are_read_too() {
        for text in [
            r#"[{"eniId":"eni-1","ifAddress":"06:25:00:00:00:01","privateIp":"10.0.0.1","vlanID":7,"subnetCidr":"10.0.0.0/24"}]"#,
            r#"[{"ENIID":"eni-1","ifaddress":"06:25:00:00:00:01","privateIP":"10.0.0.1","vlanid":7,"subnetCIDR":"10.0.0.0/24","new":1},{"bad":1}]"#,
        ] {
            assert_eq!(Branch::parse(text).unwrap().vlan.get(), 7, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, word) in [
            ("\"vlanId\":2", "\"vlanId\":4095", "[0].vlanId: VLAN 4095"),
            ("\"vlanId\":2", "\"vlanId\":\"2\"", "[0].vlanId"),
            ("\"vlanId\":2,", "", "[0].vlanId is missing"),
            ("eni-0a1", "web", "[0].eniId: \"web\""),
            ("06:25", "01:25", "[0].ifAddress"),
            ("192.168.53.199", "127.0.0.1", "127.0.0.1 cannot be"),
            ("192.168.53.199", "", "neither privateIp nor ipv6Addr"),
            ("192.168.32.0/19", "192.168.32.0", "[0].subnetCidr"),
            ("[{", "{", "not a JSON list"),
        ] {
            let error = Branch::parse(&SAMPLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(Branch::parse("[]").unwrap_err().contains("empty list"));
    }
}
