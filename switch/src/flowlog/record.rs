//! One record as text or JSON: what each field says of it, and of an interface of which there is nothing to say.

use std::net::IpAddr;

use espalier_api::{Direction, PodName};
use ipnet::IpNet;
use serde_json::{Map, Value};

use super::aggregate::{Key, Sum};
use super::field::{Field, Format};
use super::settings::FlowLogSettings;

/// What does not change from record to record of one interface.
pub(crate) struct Interface<'a> {
    /// The settings.
    pub(crate) settings: &'a FlowLogSettings,
    /// The pod.
    pub(crate) pod: &'a PodName,
    /// Its branch.
    pub(crate) eni: &'a str,
    /// The VPC.
    pub(crate) vpc: Option<&'a str>,
    /// The VPC's prefixes.
    pub(crate) cidrs: &'a [IpNet],
}

/// What is said of an interface.
pub(crate) enum Said<'a> {
    /// Traffic.
    Ok {
        /// What it is about.
        key: &'a Key,
        /// How much.
        sum: &'a Sum,
        /// The rule and its group, where it is known.
        rule: (Option<&'a str>, Option<&'a str>),
    },
    /// There was none.
    NoData,
    /// Some is missing.
    SkipData,
}

/// Seconds since 1970.
pub(crate) type Seconds = u64;

impl Interface<'_> {
    /// Appends a record with its line's end.
    pub(crate) fn write(&self, said: &Said<'_>, times: (Seconds, Seconds), out: &mut Vec<u8>) {
        let format = &self.settings.format;
        let values = format.fields().iter().map(|field| (*field, self.value(*field, said, times)));
        match format {
            Format::Text(_) => {
                for (index, (_, value)) in values.enumerate() {
                    if index > 0 {
                        out.push(b' ');
                    }
                    out.extend_from_slice(value.as_deref().unwrap_or("-").as_bytes());
                }
            }
            Format::Json => {
                let object: Map<String, Value> = values
                    .filter_map(|(field, value)| Some((field.label().to_owned(), json(field, value?))))
                    .collect();
                out.extend_from_slice(Value::Object(object).to_string().as_bytes());
            }
        }
        out.push(b'\n');
    }

    /// What a field says; nothing where there is nothing to say.
    fn value(&self, field: Field, said: &Said<'_>, (start, end): (Seconds, Seconds)) -> Option<String> {
        let settings = self.settings;
        match field {
            Field::Version => Some(settings.format.version().to_string()),
            Field::AccountId => settings.account_id.clone(),
            Field::InterfaceId => Some(self.eni.to_owned()),
            Field::InstanceId => settings.instance_id.clone(),
            Field::Region => settings.region.clone(),
            Field::AzId => settings.az_id.clone(),
            Field::VpcId => self.vpc.map(str::to_owned),
            Field::Start => Some(start.to_string()),
            Field::End => Some(end.to_string()),
            Field::Namespace => Some(self.pod.namespace().to_owned()),
            Field::Pod => Some(self.pod.name().to_owned()),
            Field::LogStatus => Some(match said {
                Said::Ok { .. } => "OK".to_owned(),
                Said::NoData => "NODATA".to_owned(),
                Said::SkipData => "SKIPDATA".to_owned(),
            }),
            _ => match said {
                Said::Ok { key, sum, rule } => self.of_traffic(field, key, sum, *rule),
                Said::NoData | Said::SkipData => None,
            },
        }
    }

    fn of_traffic(
        &self,
        field: Field,
        key: &Key,
        sum: &Sum,
        (rule, group): (Option<&str>, Option<&str>),
    ) -> Option<String> {
        let (source, destination) = (IpAddr::from(key.source.0), IpAddr::from(key.destination.0));
        match field {
            Field::SourceAddress | Field::PacketSource => Some(source.to_string()),
            Field::DestinationAddress | Field::PacketDestination => Some(destination.to_string()),
            Field::SourcePort => Some(key.source.1.to_string()),
            Field::DestinationPort => Some(key.destination.1.to_string()),
            Field::Protocol => Some(key.protocol.to_string()),
            Field::Packets => Some(sum.packets.to_string()),
            Field::Bytes => Some(sum.bytes.to_string()),
            Field::Action => Some(if key.verdict.passes() { "ACCEPT" } else { "REJECT" }.to_owned()),
            Field::TcpFlags => Some(sum.flags.to_string()),
            Field::Type => Some(if source.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned()),
            Field::FlowDirection => Some(key.direction.label().to_owned()),
            Field::TrafficPath => {
                let inside = self.cidrs.iter().any(|cidr| cidr.contains(&destination));
                (key.direction == Direction::Egress && inside).then(|| "1".to_owned())
            }
            Field::Rule => rule.map(str::to_owned),
            Field::Group => group.map(str::to_owned),
            Field::Reason => key.verdict.reason_label(),
            _ => None,
        }
    }
}

/// Numbers are numbers in JSON, as far as they count something.
fn json(field: Field, value: String) -> Value {
    let counts = matches!(
        field,
        Field::Version
            | Field::SourcePort
            | Field::DestinationPort
            | Field::Protocol
            | Field::Packets
            | Field::Bytes
            | Field::Start
            | Field::End
            | Field::TcpFlags
            | Field::TrafficPath
    );
    match value.parse::<u64>() {
        Ok(number) if counts => number.into(),
        _ => Value::String(value),
    }
}
