//! Reads the questions of `espalier explain --queries`: one JSON object a line, checked before any is answered.
//!
//! A bad line is an [`InputError`] that names file, line and field; the whole file is refused with it.

use std::io::Read;
use std::path::Path;

use espalier_api::file::{self, MAX_BYTES};
use espalier_api::{InputError, PodName, Query};

/// ICMP for IPv4 and for IPv6, TCP and UDP (IANA protocol numbers).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Every question in `path` (`-` is standard input), about pods that `known` knows. Empty lines are passed over.
pub(crate) fn read(path: &Path, known: impl Fn(&PodName) -> bool) -> Result<Vec<Query>, InputError> {
    let (name, text) = if path == Path::new("-") {
        ("standard input".to_owned(), standard_input()?)
    } else {
        (path.display().to_string(), file::read(path)?)
    };
    let mut queries = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let query = parse(line).and_then(|query| check(&query, &known).map(|()| query));
        queries.push(query.map_err(|error| error.in_file(format!("{name}:{}", index + 1)))?);
    }
    Ok(queries)
}

/// Whether the fields of a question fit together.
pub(crate) fn check(query: &Query, known: impl Fn(&PodName) -> bool) -> Result<(), InputError> {
    let refuse = |field: &str, message: String| Err(InputError::new(field, message));
    let protocol = query.protocol;
    let (ported, icmp) = (matches!(protocol.0, TCP | UDP), matches!(protocol.0, ICMP | ICMPV6));
    match query.port {
        None if ported => {
            return refuse("port", format!("missing: {protocol} is judged by its destination port"));
        }
        Some(_) if !ported => {
            return refuse("port", format!("protocol {protocol} has no ports: leave it out"));
        }
        _ => {}
    }
    if icmp && query.icmp_type.is_none() {
        return refuse(
            "icmp_type",
            format!("missing: {protocol} is judged by its type (echo request: 8, IPv6 128)"),
        );
    }
    for (field, value) in [("icmp_type", query.icmp_type), ("icmp_code", query.icmp_code)] {
        if value.is_some() && !icmp {
            return refuse(field, format!("protocol {protocol} has no ICMP type or code: leave it out"));
        }
    }
    if !known(&query.pod) {
        return refuse(
            "pod",
            format!("{} is not in the snapshot that answers: check namespace and name", query.pod),
        );
    }
    Ok(())
}

fn parse(line: &[u8]) -> Result<Query, InputError> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let query: Query = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // "." and "?" stand for the line itself: it is no object, or it breaks off.
        let field = error.path().to_string();
        let field = if matches!(field.as_str(), "." | "?") { "" } else { &field };
        InputError::new(field, plain(error.inner()))
    })?;
    deserializer.end().map_err(|error| InputError::new("", plain(&error)))?;
    Ok(query)
}

/// The error without serde_json's "at line 1 column N": the line is named already.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => format!("{message} (column {})", error.column()),
        None => text,
    }
}

fn standard_input() -> Result<Vec<u8>, InputError> {
    let refuse = |message: String| InputError::new("", message).in_file("standard input");
    let mut text = Vec::new();
    std::io::stdin()
        .take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(refuse(format!("larger than {} MiB, the most that is accepted", MAX_BYTES >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(fields: &str) -> InputError {
        let line = format!(r#"{{"pod":"a/b","direction":"egress",{fields}}}"#);
        parse(line.as_bytes()).and_then(|query| check(&query, |pod| pod.as_str() == "a/b")).unwrap_err()
    }

    #[test]
    fn fields_that_do_not_apply_are_refused_by_name() {
        let v4 = r#""remote":"10.0.0.1""#;
        for (fields, field) in [
            (format!(r#""protocol":"tcp",{v4}"#), "port"),
            (format!(r#""protocol":"icmp",{v4}"#), "icmp_type"),
            (format!(r#""protocol":"icmp",{v4},"icmp_type":8,"port":1"#), "port"),
            (format!(r#""protocol":"tcp",{v4},"port":1,"icmp_type":8"#), "icmp_type"),
            (format!(r#""protocol":50,{v4},"icmp_code":0"#), "icmp_code"),
            (format!(r#""protocol":"tcp",{v4},"port":65536"#), "port"),
            (format!(r#""protocol":"tpc",{v4},"port":1"#), "protocol"),
            (r#""protocol":"tcp","remote":"10.0.0.256","port":1"#.to_owned(), "remote"),
            (format!(r#""protocol":"tcp",{v4},"port":1,"sport":2"#), "sport"),
        ] {
            assert_eq!(refused(&fields).field, field, "{fields}");
        }
    }

    #[test]
    fn a_pod_must_be_known() {
        let line = br#"{"pod":"a/b","direction":"egress","protocol":"tcp","remote":"::1","port":1}"#;
        let query = parse(line).unwrap();
        assert!(check(&query, |_| true).is_ok());
        assert_eq!(check(&query, |_| false).unwrap_err().field, "pod");
    }

    #[test]
    fn two_objects_on_a_line_are_refused() {
        let line = br#"{"pod":"a/b","direction":"egress","protocol":50,"remote":"::1"} {}"#;
        assert!(parse(line).unwrap_err().message.contains("trailing characters"));
    }
}
