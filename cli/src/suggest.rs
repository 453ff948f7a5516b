//! Near names for one that is not known: a typing mistake, another namespace, a name without its last part.
//!
//! Used by every command that takes a name; [`pods_of_the_switch`] does it for what the switch itself refuses.

use espalier_api::control::PodStatus;
use espalier_api::{InputError, PodName};

use crate::args::Global;
use crate::client::{Client, ClientError};
use crate::error::CliError;

/// Names suggested at most.
const SUGGESTED: usize = 3;
/// One mistake is allowed for so many letters.
const LETTERS_A_MISTAKE: usize = 4;

/// The refusal of a name, with those of `known` that were probably meant.
pub(crate) fn with_near<T: ToString>(
    error: InputError,
    wanted: &impl ToString,
    known: impl IntoIterator<Item = T>,
) -> InputError {
    let near = near(&wanted.to_string(), known.into_iter().map(|name| name.to_string()).collect());
    match near.as_slice() {
        [] => error,
        near => {
            InputError { message: format!("{}; did you mean {}?", error.message, near.join(" or ")), ..error }
        }
    }
}

/// The same for a pod that the switch refused, alone or in a filter: the name is in the refusal.
pub(crate) fn pods_of_the_switch(error: CliError, global: &Global) -> CliError {
    match error {
        CliError::Switch(ClientError::Refused(refused)) => {
            CliError::Switch(ClientError::Refused(with_near_pods(refused, global)))
        }
        other => other,
    }
}

fn with_near_pods(refused: InputError, global: &Global) -> InputError {
    let wanted = refused.message.split(' ').find_map(|word| word.parse::<PodName>().ok());
    let Some(wanted) = wanted.filter(|_| ["pod", "filter"].contains(&refused.field.as_str())) else {
        return refused;
    };
    let known = pods(global);
    if known.contains(&wanted) { refused } else { with_near(refused, &wanted, known) }
}

/// The switch's pods; none where it does not answer any more.
fn pods(global: &Global) -> Vec<PodName> {
    let asked = Client::connect(global).and_then(|mut client| client.get::<Vec<PodStatus>>("/v1/pods"));
    asked.unwrap_or_default().into_iter().map(|pod| pod.name).collect()
}

/// The nearest of `known`, nearest first.
fn near(wanted: &str, known: Vec<String>) -> Vec<String> {
    let mut near: Vec<(usize, String)> =
        known.into_iter().filter_map(|name| Some((distance(wanted, &name)?, name))).collect();
    near.sort();
    near.into_iter().take(SUGGESTED).map(|(_, name)| name).collect()
}

/// How far apart two names are; nothing where they have too little in common.
fn distance(wanted: &str, name: &str) -> Option<usize> {
    let ((namespace, own), (other_namespace, other)) = (parts(wanted), parts(name));
    if name.starts_with(wanted) || own == other {
        return Some(0);
    }
    let (one, other) = if namespace == other_namespace { (own, other) } else { (wanted, name) };
    let mistakes = strsim::damerau_levenshtein(one, other);
    (mistakes <= (one.len() / LETTERS_A_MISTAKE).max(1)).then_some(mistakes)
}

/// Namespace and name of a pod; other names are in none.
fn parts(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(wanted: &str) -> Vec<String> {
        let known =
            ["shop/web-0", "shop/web-1", "shop/db-0", "shop/checkout-7d9f8b6c54-x2x4z", "other/proxy"];
        near(wanted, known.map(str::to_owned).to_vec())
    }

    #[test]
    fn what_was_probably_meant_is_named_nearest_first() {
        assert_eq!(meant("shop/web-9"), ["shop/web-0", "shop/web-1"]);
        assert_eq!(meant("shop/wbe-0"), ["shop/web-0"]);
        assert_eq!(meant("shop/checkout"), ["shop/checkout-7d9f8b6c54-x2x4z"]);
        assert_eq!(meant("shop/proxy"), ["other/proxy"]);
        assert_eq!(meant("billing/invoice-2"), [""; 0]);
    }

    #[test]
    fn a_refusal_without_a_near_name_stays_as_it_is() {
        let error = InputError::new("pod", "a/b is not here");
        assert_eq!(with_near(error.clone(), &"a/b", ["zzzzz/yyyyyy"]), error);
        assert_eq!(with_near(error, &"a/b", ["a/c"]).message, "a/b is not here; did you mean a/c?");
    }
}
