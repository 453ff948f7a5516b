//! Kubernetes label selectors, checked once and matched often.
//!
//! As the API server's `metav1.LabelSelectorAsSelector`: an empty one matches everything, requirements are joined by
//! AND, `NotIn` and `DoesNotExist` match objects that lack the key.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Labels;

/// A selector whose expressions are valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Checks a selector; the error names the expression.
    pub fn new(selector: &LabelSelector) -> Result<Self, String> {
        let exact = selector.match_labels.iter().flatten().map(|(key, value)| Requirement {
            key: key.clone(),
            test: Test::In(BTreeSet::from([value.clone()])),
        });
        let mut requirements: Vec<Requirement> = exact.collect();
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let path = format!("matchExpressions[{index}]");
            if expression.key.is_empty() {
                return Err(format!("{path}.key is empty: name a label"));
            }
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let test = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Test::In(values),
                ("NotIn", false) => Test::NotIn(values),
                ("Exists", true) => Test::Exists,
                ("DoesNotExist", true) => Test::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err(format!(
                        "{path}.values is empty: {} needs at least one",
                        expression.operator
                    ));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(format!("{path}.values must be empty for {}", expression.operator));
                }
                (other, _) => {
                    return Err(format!(
                        "{path}.operator is {other:?}: expected In, NotIn, Exists or DoesNotExist"
                    ));
                }
            };
            requirements.push(Requirement { key: expression.key.clone(), test });
        }
        Ok(Self { requirements })
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Test::Exists => value.is_some(),
                Test::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> Result<Selector, String> {
        Selector::new(&serde_json::from_value(json).unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_empty_selector_matches_everything() {
        let all = selector(serde_json::json!({})).unwrap();
        assert!(all.matches(&labels(&[])) && all.matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn requirements_are_joined_by_and() {
        let both = selector(serde_json::json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "stage", "operator": "NotIn", "values": ["test"]},
                {"key": "live", "operator": "Exists"},
                {"key": "dead", "operator": "DoesNotExist"}]
        }))
        .unwrap();
        let fits = [("app", "web"), ("tier", "b"), ("live", "")];
        assert!(both.matches(&labels(&fits)));
        for spoilt in [("app", "db"), ("tier", "c"), ("stage", "test"), ("dead", "x")] {
            let mut labels = labels(&fits);
            labels.insert(spoilt.0.into(), spoilt.1.into());
            assert!(!both.matches(&labels), "{spoilt:?}");
        }
        assert!(!both.matches(&labels(&fits[..2])));
    }

    #[test]
    fn bad_expressions_are_named() {
        for (expression, word) in [
            (serde_json::json!({"key": "a", "operator": "Equals", "values": ["b"]}), "\"Equals\""),
            (serde_json::json!({"key": "a", "operator": "In"}), "values is empty"),
            (serde_json::json!({"key": "a", "operator": "Exists", "values": ["b"]}), "must be empty"),
            (serde_json::json!({"key": "", "operator": "Exists"}), "key is empty"),
        ] {
            let error = selector(serde_json::json!({"matchExpressions": [expression]})).unwrap_err();
            assert!(error.contains(word) && error.contains("matchExpressions[0]"), "{error}");
        }
    }
}
