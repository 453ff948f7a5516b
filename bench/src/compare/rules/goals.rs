//! The numbers that the rules engine was to reach, against the rows just measured.

use anyhow::{Context, Result};

use super::VERDICT;
use crate::report::Report;

pub(super) fn judge(report: &mut Report) -> Result<()> {
    let get = |case: &str, subject: &str| {
        report.median(case, subject).with_context(|| format!("{case} was not measured for {subject}"))
    };
    let verdict = format!("{VERDICT}/uniform");
    let (scalar, batch) = (get(&verdict, "espalier")?, get(&verdict, "espalier batch 32")?);
    let acl = get(&verdict, "rte_acl batch 32")?;
    let bpf = get(&verdict, "bpf lpm trie (prefix only)")?;
    let prefix_10k = get("rules/prefix/10k/uniform", "espalier")?;
    let prefix_1m = get("rules/prefix/1M/uniform", "espalier batch 32")?;
    let compile_rules = get("rules/compile/1k-rules", "espalier")?;
    let compile_prefixes = get("rules/compile/100k-prefixes", "espalier")?;
    let member = get("rules/update/member-of-10k", "espalier")?;
    let compile_members = get("rules/compile/1k-rules-10k-prefixes-10k-members", "espalier")?;
    let member_of_all = get("rules/update/member-of-1k-rules-10k-prefixes-10k-members", "espalier")?;
    let visible = get("rules/update/visible-under-load/p99", "espalier")?;
    let memory = get("rules/memory/1M-prefixes/tables-and-compiler", "espalier")?;

    report.at_most("new-flow verdict, 1k rules, 10k prefixes, 10k members: scalar, ns", 60.0, scalar);
    report.at_most("new-flow verdict, same, batches of 32, ns", 25.0, batch);
    report.at_least("new-flow verdict, batched: times faster than rte_acl", 2.0, acl / batch);
    report.at_least("new-flow verdict, batched: times faster than the BPF LPM trie", 5.0, bpf / batch);
    report.at_most("prefix stage at 10k: within 1.5 times a poptrie's 10 ns, ns", 15.0, prefix_10k);
    report.at_most("prefix stage at 1M, batched, ns", 60.0, prefix_1m);
    report.at_most("compile of 1k rules, ms", 2.0, compile_rules);
    report.at_most("compile of 100k prefixes, ms", 150.0, compile_prefixes);
    report.at_most("one member change at 10k members, us", 10.0, member);
    let ratio = compile_members * 1e3 / member_of_all;
    report.at_least("one member change: times cheaper than a compile of the same rules", 1000.0, ratio);
    report.at_most("one member change visible on a busy worker, p99, ms", 1.0, visible);
    report.at_most("memory at 1M IPv4 prefixes, tables and compiler, MiB", 64.0, memory);
    // `compare` stops with an error when a lookup allocates, so here it is zero.
    report.at_most("allocations per lookup", 0.0, 0.0);
    Ok(())
}
