//! Field and label selectors, as list and watch requests carry them.
//!
//! Grammar: "Labels and Selectors" in the Kubernetes documentation. A selector that cannot be read is an error, as in
//! the real server, never one that matches all.

use serde_json::Value;

use super::resources::Resource;

/// The two selectors of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    fields: Vec<(String, bool, String)>,
    labels: Vec<Requirement>,
}

#[derive(Debug, Clone)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Reads both texts; the error is the message of a 400.
    pub(crate) fn parse(resource: &Resource, fields: &str, labels: &str) -> Result<Self, String> {
        let fields = fields.split(',').filter(|part| !part.is_empty()).map(|part| {
            let (key, equal, value) = part
                .split_once("!=")
                .map(|(key, value)| (key, false, value))
                .or_else(|| part.split_once("==").map(|(key, value)| (key, true, value)))
                .or_else(|| part.split_once('=').map(|(key, value)| (key, true, value)))
                .ok_or_else(|| format!("invalid selector: '{part}'; can't understand '{part}'"))?;
            let known = ["metadata.name", "metadata.namespace"].contains(&key);
            if !known && !resource.field_labels.contains(&key) {
                return Err(format!("field label not supported: {key}"));
            }
            Ok((key.to_owned(), equal, value.to_owned()))
        });
        let labels = split_labels(labels).into_iter().map(|part| requirement(part.trim()));
        Ok(Self { fields: fields.collect::<Result<_, _>>()?, labels: labels.collect::<Result<_, _>>()? })
    }

    /// Whether the object is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.fields.iter().all(|(path, equal, value)| {
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default();
            (found == value) == *equal
        }) && self.labels.iter().all(|requirement| {
            let found = labels.get(&requirement.key).and_then(Value::as_str);
            match &requirement.test {
                Test::In(values) => found.is_some_and(|found| values.iter().any(|value| value == found)),
                Test::NotIn(values) => !found.is_some_and(|found| values.iter().any(|value| value == found)),
                Test::Exists => found.is_some(),
                Test::Absent => found.is_none(),
            }
        })
    }
}

/// Splits at the commas outside parentheses.
fn split_labels(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let made = |key: &str, test| {
        let key = key.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(plain) {
            return Err(format!("unable to parse requirement: invalid label key {key:?}"));
        }
        Ok(Requirement { key: key.to_owned(), test })
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = text.split_once("!=") {
        return made(key, Test::NotIn(one(value)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(key, Test::In(one(value)));
    }
    if let Some(key) = text.strip_prefix('!') {
        return made(key, Test::Absent);
    }
    if let Some((left, values)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let left = left.trim();
        if let Some(key) = left.strip_suffix(" notin") {
            return made(key, Test::NotIn(values));
        }
        if let Some(key) = left.strip_suffix(" in") {
            return made(key, Test::In(values));
        }
        return Err(format!("unable to parse requirement: {text:?} has neither in nor notin"));
    }
    made(text, Test::Exists)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kit::kube_api::resources::RESOURCES;

    fn matches(labels: &str, object: &Value) -> bool {
        Selector::parse(&RESOURCES[0], "", labels).unwrap().matches(object)
    }

    #[test]
    fn labels_are_selected_by_every_operator() {
        let object = json!({ "metadata": { "labels": { "app": "web", "tier": "front" } } });
        for yes in [
            "",
            "app",
            "!gone",
            "app=web",
            "app==web",
            "app!=db",
            "gone!=x",
            "app in (db, web)",
            "app notin (db)",
            "gone notin (x)",
            "app=web,tier in (front,back),!gone",
        ] {
            assert!(matches(yes, &object), "{yes}");
        }
        for no in ["gone", "!app", "app=db", "app!=web", "app in (db)", "app notin (web)", "gone in (x)"] {
            assert!(!matches(no, &object), "{no}");
        }
        assert!(Selector::parse(&RESOURCES[0], "", "app within (a)").is_err());
    }

    #[test]
    fn fields_are_selected_and_unknown_ones_refused() {
        let object = json!({ "metadata": { "name": "a" }, "spec": { "nodeName": "n1" } });
        let parse = |text| Selector::parse(&RESOURCES[0], text, "");
        assert!(parse("spec.nodeName=n1,metadata.name==a,status.phase!=Failed").unwrap().matches(&object));
        assert!(!parse("spec.nodeName!=n1").unwrap().matches(&object));
        assert_eq!(parse("spec.hostname=x").unwrap_err(), "field label not supported: spec.hostname");
    }
}
