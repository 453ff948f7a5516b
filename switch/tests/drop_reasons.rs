//! `docs/DROP-REASONS.md` is made of the drop reasons: this holds the page against them.
//!
//! After a change of reasons: `ESPALIER_WRITE_DOCS=1 cargo test -p espalier-switch --test drop_reasons`.

use std::fs;
use std::path::Path;

use espalier_switch::reason::DropReason;

const HEAD: &str = "# Drop reasons

Each packet that the switch drops is counted for exactly one reason. You find the counts in `espalier top` (panel *drops*),
in `espalier status` (all of the switch) and in `espalier pods POD` (one pod, by direction). The label of the reason is the
same everywhere: tables, JSON, metrics, captures and flow logs.

This page is made from the program's own list.

| Reason | What it means | What to do |
|---|---|---|
";

#[test]
fn the_page_is_what_the_program_says() {
    let rows = DropReason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} | {} |\n", reason.label(), reason.meaning(), reason.advice()));
    let page: String = std::iter::once(HEAD.to_owned()).chain(rows).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/DROP-REASONS.md");
    if std::env::var_os("ESPALIER_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/DROP-REASONS.md is not up to date: \
         ESPALIER_WRITE_DOCS=1 cargo test -p espalier-switch --test drop_reasons"
    );
}

#[test]
fn advice_is_said_in_sentences_that_fit_a_table() {
    for reason in DropReason::ALL {
        let advice = reason.advice();
        assert!(advice.ends_with('.') && !advice.contains('|') && advice.len() < 240, "{}", reason.label());
    }
}
