//! What must hold of the filter language on whatever text: no panic, errors that point into it, a filter that is written as
//! it is read. What follows the first zero byte is a frame for it to judge.
//!
//! The fuzz target's body, and that of the test that replays its corpus.

use espalier_api::filter::{Filter, Headers, Subject};

pub(crate) fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = parts.next().and_then(|text| std::str::from_utf8(text).ok());
    let (Some(text), frame) = (text, parts.next().unwrap_or_default()) else { return };
    match text.parse::<Filter>() {
        Ok(filter) => {
            assert_eq!(filter.to_string().parse(), Ok(filter.clone()));
            let subject = Subject { headers: Headers::of(frame), len: frame.len(), ..Subject::default() };
            let negated: Result<Filter, _> = format!("not ({text})").parse();
            if let (false, Ok(negated)) = (filter.is_empty(), negated) {
                let [fits, not] = [&filter, &negated].map(|filter| filter.matches(&subject, |_| true));
                assert_ne!(fits, not, "{text}");
            }
        }
        Err(error) => {
            assert!(error.at() <= text.chars().count(), "{text:?}: {error}");
            assert_eq!(error.pointed().lines().count(), 3, "{text:?}: {error}");
        }
    }
}
