//! The fields of a flow log record: their names, and formats made of them.
//!
//! AWS's names up to version 5 (VPC User Guide, "Flow log records"), and ours, which begin with `espalier-`.

use std::str::FromStr;

macro_rules! fields {
    ($($name:ident = $label:literal, $version:literal;)+) => {
        /// A field of a record.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Field {
            $(#[doc = concat!("`", $label, "`.")] $name,)+
        }

        impl Field {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As it is called in formats and headers.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The first version of flow logs that has it; 2 for ours, which AWS's do not have.
            pub fn version(self) -> u8 {
                match self { $(Self::$name => $version,)+ }
            }
        }
    };
}

fields! {
    Version = "version", 2;
    AccountId = "account-id", 2;
    InterfaceId = "interface-id", 2;
    SourceAddress = "srcaddr", 2;
    DestinationAddress = "dstaddr", 2;
    SourcePort = "srcport", 2;
    DestinationPort = "dstport", 2;
    Protocol = "protocol", 2;
    Packets = "packets", 2;
    Bytes = "bytes", 2;
    Start = "start", 2;
    End = "end", 2;
    Action = "action", 2;
    LogStatus = "log-status", 2;
    VpcId = "vpc-id", 3;
    SubnetId = "subnet-id", 3;
    InstanceId = "instance-id", 3;
    TcpFlags = "tcp-flags", 3;
    Type = "type", 3;
    PacketSource = "pkt-srcaddr", 3;
    PacketDestination = "pkt-dstaddr", 3;
    Region = "region", 4;
    AzId = "az-id", 4;
    SublocationType = "sublocation-type", 4;
    SublocationId = "sublocation-id", 4;
    PacketSourceService = "pkt-src-aws-service", 5;
    PacketDestinationService = "pkt-dst-aws-service", 5;
    FlowDirection = "flow-direction", 5;
    TrafficPath = "traffic-path", 5;
    Namespace = "espalier-namespace", 2;
    Pod = "espalier-pod", 2;
    Group = "espalier-group", 2;
    Rule = "espalier-rule", 2;
    Reason = "espalier-reason", 2;
}

/// Fields of version 2, in AWS's order.
const DEFAULT: usize = 14;

/// How a record is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// The fields, with spaces between; each file begins with a line of their names.
    Text(Vec<Field>),
    /// All fields, as a JSON object a line.
    Json,
}

impl Format {
    /// The fields of a record, in order.
    pub fn fields(&self) -> &[Field] {
        match self {
            Self::Text(fields) => fields,
            Self::Json => Field::ALL,
        }
    }

    /// What records say for `version`: the highest of their fields'.
    pub fn version(&self) -> u8 {
        self.fields().iter().map(|field| field.version()).max().unwrap_or(2)
    }

    /// The first line of each file.
    pub fn header(&self) -> Option<String> {
        match self {
            Self::Text(fields) => {
                let names: Vec<_> = fields.iter().map(|field| field.label()).collect();
                Some(names.join(" ") + "\n")
            }
            Self::Json => None,
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => return Ok(Self::Text(Field::ALL[..DEFAULT].to_vec())),
            "json" => return Ok(Self::Json),
            _ => {}
        }
        let fields: Vec<_> = text.split_whitespace().map(field).collect::<Result<_, _>>()?;
        if fields.is_empty() {
            return Err("names no field: expected `default`, `json` or fields such as `${srcaddr}`".into());
        }
        Ok(Self::Text(fields))
    }
}

fn field(text: &str) -> Result<Field, String> {
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let name = name.ok_or_else(|| format!("{text:?} is not a field: expected `${{NAME}}`"))?;
    Field::ALL.iter().copied().find(|field| field.label() == name).ok_or_else(|| {
        let names: Vec<_> = Field::ALL.iter().map(|field| field.label()).collect();
        format!("{name:?} is no field of a flow log here: there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_awss_version_2() {
        let format: Format = "default".parse().unwrap();
        assert_eq!(
            format.header().unwrap(),
            "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action \
             log-status\n"
        );
        assert_eq!(format.version(), 2);
    }

    #[test]
    fn a_format_has_the_version_of_its_newest_field() {
        let version = |text: &str| text.parse::<Format>().unwrap().version();
        assert_eq!(version("${srcaddr} ${espalier-rule}"), 2);
        assert_eq!(version("${srcaddr} ${tcp-flags}"), 3);
        assert_eq!(version("${version} ${flow-direction} ${vpc-id}"), 5);
        assert_eq!(version("json"), 5);
    }

    #[test]
    fn what_is_no_field_is_named() {
        for (text, wanted) in
            [("srcaddr", "${NAME}"), ("${srcport} ${sport}", "\"sport\""), (" ", "no field")]
        {
            let error = text.parse::<Format>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
