//! The kernel's forwarding with nftables on conntrack as a device under test, the rules as a set or as a linear chain.
//!
//! This kernel has neither 802.1Q interfaces nor traffic control's VLAN action, so that it gets its frames untagged: less
//! work than the others have. Receive packet steering hands them to the measured core. Established flows are accepted
//! by the first rule in both forms, as everybody writes it.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::rules::Rules;
use super::site::{A, B, GATEWAY, GATEWAY_MAC, SUBJECT_CORE, Site, TRUNK, mac_text};

/// How the rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One set of address, protocol and port.
    Sets,
    /// A rule after the other, as iptables does.
    Chain,
}

/// Makes the node a router with these rules. It is one until its namespace goes.
pub(super) fn start(site: &Site, form: Form, rules: &Rules) -> Result<()> {
    let node = &site.node;
    node.sysctl("net/ipv4/ip_forward", "1")?;
    let gateway = mac_text(GATEWAY_MAC);
    let [own, next] = [0, 1].map(|host| std::net::Ipv4Addr::from_bits(GATEWAY.to_bits() + host));
    let mut lines = format!(
        "addr add {own}/24 dev {TRUNK}\nneigh add {next} lladdr {gateway} dev {TRUNK} nud permanent\n\
         route add 10.64.0.0/16 via {next} dev {TRUNK}\n"
    );
    for (pod, mac) in [A, B].iter().zip(site.pod_macs) {
        let (address, veth, mac) = (pod.address, pod.veth, mac_text(mac));
        writeln!(lines, "route add {address} dev {veth}")?;
        writeln!(lines, "neigh add {address} lladdr {mac} dev {veth} nud permanent")?;
    }
    node.ip(&lines)?;
    for interface in [TRUNK, A.veth, B.veth] {
        // The generator's frames need a receiving end with NAPI.
        node.offload(interface, "gro on")?;
        let mask = 1 << SUBJECT_CORE;
        node.with_sysfs(&format!("echo {mask:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus"))?;
    }
    load(site, &ruleset(form, rules)?)
}

fn load(site: &Site, ruleset: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = site.node.spawn(&mut command).context("is nftables installed? See ci/bench")?;
    if let Some(mut input) = child.stdin.take() {
        // One that stops reading says why on stderr.
        let _ = std::io::Write::write_all(&mut input, ruleset.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft refuses the rules: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The same policy for both pods: what leaves a pod passes the rules, and what enters one.
fn ruleset(form: Form, Rules(rules): &Rules) -> Result<String> {
    let mut text = String::from("table inet bench {\n");
    let protocol = |udp| if udp { "udp" } else { "tcp" };
    if form == Form::Sets {
        text.push_str(
            "set rules { type ipv4_addr . inet_proto . inet_service; flags interval; elements = {\n",
        );
        for rule in rules {
            writeln!(text, "{} . {} . {},", rule.net, protocol(rule.udp), rule.port)?;
        }
        text.push_str("} }\n");
    }
    for (chain, end) in [("egress", "daddr"), ("ingress", "saddr")] {
        writeln!(text, "chain {chain} {{")?;
        match form {
            Form::Sets => writeln!(text, "ip {end} . meta l4proto . th dport @rules return")?,
            Form::Chain => {
                for rule in rules {
                    writeln!(
                        text,
                        "ip {end} {} {} dport {} return",
                        rule.net,
                        protocol(rule.udp),
                        rule.port
                    )?;
                }
            }
        }
        text.push_str("drop\n}\n");
    }
    text.push_str(
        "chain forward {\ntype filter hook forward priority filter; policy accept;\n\
         ct state established,related accept\niifname \"veth*\" jump egress\noifname \"veth*\" jump ingress\n}\n}\n",
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_every_rule_each_way_and_a_set_has_it_once() {
        let rules = Rules::new(10);
        let lines = |form, of: &str| ruleset(form, &rules).unwrap().matches(of).count();
        assert_eq!((lines(Form::Chain, " dport "), lines(Form::Sets, " . udp . 9,")), (20, 1));
        assert_eq!(lines(Form::Chain, "10.0.0.0/8 udp dport 9 return"), 2);
    }
}
