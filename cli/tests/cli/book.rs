//! The book in `docs/`: the command reference is what the program prints, every page is listed, every link leads somewhere.
//!
//! After a change of commands: `ESPALIER_WRITE_DOCS=1 cargo test -p espalier-cli --test cli book`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::help::helps;

const HEAD: &str = "# Commands

What `espalier COMMAND --help` prints. `espalier man` has the same as manual pages, `espalier completions` for your shell.

Exit codes: 0 done, 1 the answer is no, 2 bad usage or input, 3 the switch cannot be reached.
";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").canonicalize().unwrap()
}

#[test]
fn the_reference_is_what_the_program_prints() {
    let chapters = helps().into_iter().map(|(path, help)| {
        let name = ["espalier".to_owned()].into_iter().chain(path).collect::<Vec<_>>().join(" ");
        format!("\n## {name}\n\n```text\n{}\n```\n", help.trim_end())
    });
    let page: String = std::iter::once(HEAD.to_owned()).chain(chapters).collect();
    let path = docs().join("CLI.md");
    if std::env::var_os("ESPALIER_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == page,
        "docs/CLI.md is not up to date: ESPALIER_WRITE_DOCS=1 cargo test -p espalier-cli --test cli book"
    );
}

#[test]
fn the_book_is_built() {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let program = cache.join("espalier/mdbook-0.5.4/bin/mdbook");
    assert!(program.exists(), "{} is missing: ci/setup test", program.display());
    let folder = tempfile::tempdir().unwrap();
    let output =
        Command::new(program).arg("build").arg(docs()).arg("-d").arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("WARN"), "{said}");
    assert!(folder.path().join("walkthrough-denied-connection.html").exists(), "{said}");
}

/// Every Markdown file under the book's folder.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| if path.is_dir() { pages(&path) } else { vec![path] });
    below.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Targets of the links of a page, without those to other sites; code is no text.
fn links(text: &str) -> Vec<String> {
    let mut code = false;
    let lines = text.lines().filter(|line| {
        code ^= line.trim_start().starts_with("```");
        !code
    });
    let targets = lines.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    let near = targets.filter(|target| !target.contains("://"));
    near.map(|target| target.split('#').next().unwrap().to_owned())
        .filter(|target| !target.is_empty())
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages(&docs()) {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            let target = page.parent().unwrap().join(&link);
            assert!(target.exists(), "{}: there is no {link}", page.display());
        }
    }
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let docs = docs();
    let listed: BTreeSet<PathBuf> = links(&fs::read_to_string(docs.join("SUMMARY.md")).unwrap())
        .into_iter()
        .map(|link| docs.join(link))
        .collect();
    let found: BTreeSet<PathBuf> =
        pages(&docs).into_iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:?}");
}
