//! Filters against tcpdump: random packets, random filters of the words that both know, the same packets selected.
//!
//! tcpdump reads the packets from a pipe and writes those it selects; their times tell which they are.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails there")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use espalier_api::filter::{Filter, Headers, Subject};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// No compiled filter reads further than this into the frames made here: where it does, it selects nothing, also under a
/// `not`, which is no part of the language.
const SHORTEST: usize = 120;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_packets_are_selected(packets in vec(packet(), 40..80), text in expression()) {
        let filter: Filter = text.parse().map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        let ours: Vec<usize> = (0..packets.len()).filter(|at| filter.matches(&subject(&packets[*at]), |_| false)).collect();
        prop_assert_eq!(ours, tcpdump(&packets, &text), "{}", text);
    }
}

/// What the random filters may never contain, held against tcpdump one by one.
#[test]
fn both_refuse_the_same_mistakes() {
    for text in [
        "port 65536",
        "tcp or 80",
        "icmp port 80",
        "tcp host 10.0.0.1",
        "ip6 host 10.0.0.1",
        "net 10.0.0.1/8",
        "src 10.0.0.0/8",
        "10.0.0.1",
        "port 80 or",
        "(tcp",
        "tcp)",
        "and tcp",
        "ip port 80",
        "host 10.0.0.300",
        "tcp udp",
        "port (tcp)",
        "net 10.0.0.0/33",
        "src or src port 80",
        "less",
    ] {
        assert!(text.parse::<Filter>().is_err(), "{text}");
        assert!(run(&[], text).is_err(), "{text}");
    }
}

#[derive(Debug, Clone)]
struct Packet {
    bytes: Vec<u8>,
    /// What was cut off.
    more: usize,
}

fn subject(packet: &Packet) -> Subject {
    Subject {
        headers: Headers::of(&packet.bytes),
        len: packet.bytes.len() + packet.more,
        ..Subject::default()
    }
}

/// Which of the packets tcpdump selects.
fn tcpdump(packets: &[Packet], text: &str) -> Vec<usize> {
    match run(packets, text) {
        Ok(selected) => selected,
        Err(error) if error.contains("rejects all packets") => Vec::new(),
        Err(error) => panic!("{text}: {error}"),
    }
}

fn run(packets: &[Packet], text: &str) -> Result<Vec<usize>, String> {
    // A pcap file: link type 1 is Ethernet.
    let mut file: Vec<u8> = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1].iter().flat_map(word).collect();
    for (at, packet) in packets.iter().enumerate() {
        let len = packet.bytes.len() as u32;
        file.extend([at as u32, 0, len, len + packet.more as u32].iter().flat_map(word));
        file.extend(&packet.bytes);
    }
    let mut command = Command::new("tcpdump");
    command.args(["-r", "-", "-w", "-", "--", text]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("tcpdump is installed: `ci/setup test`");
    let mut input = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || input.write_all(&file));
    let output = child.wait_with_output().unwrap();
    // A filter that is refused leaves the rest of the file unread.
    let _ = writing.join().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut selected = Vec::new();
    let mut rest = output.stdout.get(24..).unwrap_or_default();
    while let Some((record, behind)) = rest.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap()) as usize;
        selected.push(word(0));
        rest = &behind[word(8)..];
    }
    Ok(selected)
}

fn word(word: &u32) -> [u8; 4] {
    word.to_ne_bytes()
}

const PORTS: [u16; 6] = [0, 53, 80, 443, 8080, 65535];
const PROTOCOLS: [u8; 8] = [0, 1, 6, 17, 44, 50, 58, 132];
const IPV4: [[u8; 4]; 5] = [[10, 0, 0, 1], [10, 0, 1, 2], [10, 1, 0, 1], [192, 168, 1, 1], [0, 0, 0, 10]];
const IPV6: [&str; 4] = ["2001:db8::1", "2001:db8:1::1", "fe80::1", "::ffff:10.0.0.1"];

fn packet() -> impl Strategy<Value = Packet> {
    let frame = prop_oneof![
        6 => (select(&IPV4[..]), select(&IPV4[..]), select(&PROTOCOLS[..]), fragment(), 5_u8..=15, ports())
            .prop_map(|(source, destination, protocol, fragment, words, ports)| {
                let mut packet = vec![0x40 | words, 0, 0, 0, 0, 0];
                packet.extend(fragment.to_be_bytes());
                packet.extend([64, protocol, 0, 0]);
                packet.extend(source.iter().chain(&destination));
                packet.resize(usize::from(words) * 4, 1);
                packet.extend(ports);
                ethernet(0x0800, &packet)
            }),
        5 => (select(&IPV6[..]), select(&IPV6[..]), select(&PROTOCOLS[..]), select(&PROTOCOLS[..]), ports(), ports())
            .prop_map(|(source, destination, next, behind, first, second)| {
                let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
                for address in [source, destination] {
                    packet.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
                }
                if [0, 44].contains(&next) {
                    packet.extend([behind, 0, 0, 0, 0, 0, 0, 0]);
                }
                packet.extend(first);
                packet.extend(second);
                ethernet(0x86dd, &packet)
            }),
        2 => (select(&[0x0806_u16, 0x8035][..]), select(&IPV4[..]), select(&IPV4[..])).prop_map(|(kind, sender, target)| {
            let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 6, 0, 0, 0, 0, 1];
            packet.extend(sender.iter().chain(&[6, 0, 0, 0, 0, 2]).chain(&target));
            ethernet(kind, &packet)
        }),
        1 => (0x0600_u16..).prop_map(|kind| ethernet(kind, &[])),
    ];
    (frame, 0_usize..40, prop_oneof![3 => Just(0_usize), 1 => 1_usize..2000]).prop_map(
        |(mut bytes, padding, more)| {
            bytes.resize(SHORTEST + padding, 0);
            Packet { bytes, more }
        },
    )
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![6, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// Whole packets, first fragments, later ones.
fn fragment() -> impl Strategy<Value = u16> {
    select(&[0, 0, 0x4000, 0x2000, 0x2001, 0x0005, 0x1fff][..])
}

fn ports() -> impl Strategy<Value = Vec<u8>> {
    (select(&PORTS[..]), select(&PORTS[..])).prop_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat())
}

fn expression() -> impl Strategy<Value = String> {
    let operator = || select(&[" and ", " or ", " && ", " || "][..]);
    let not = || select(&["", "", "", "not ", "! ", "not not "][..]);
    let leaf = prop_oneof![values(), single()];
    let leaf = (not(), leaf).prop_map(|(not, leaf)| format!("{not}{leaf}"));
    leaf.prop_recursive(3, 12, 4, move |inner| {
        let group = (not(), inner.clone()).prop_map(|(not, inner)| format!("{not}({inner})"));
        let item = prop_oneof![inner, group];
        (item.clone(), vec((operator(), item), 1..3)).prop_map(|(first, more)| {
            more.into_iter().fold(first, |text, (operator, item)| format!("{text}{operator}{item}"))
        })
    })
}

fn single() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(&["ip", "ip6", "arp", "tcp", "udp", "sctp", "icmp", "icmp6"][..]).prop_map(str::to_owned),
        1 => (select(&["less", "greater"][..]), SHORTEST - 5..SHORTEST + 60).prop_map(|(word, len)| format!("{word} {len}")),
    ]
}

/// Words and values that inherit them, some in parentheses.
fn values() -> impl Strategy<Value = String> {
    let end = || select(&["", "", "src ", "dst ", "src or dst ", "dst and src "][..]);
    let head = prop_oneof![
        (select(&["", "ip ", "arp "][..]), end()).prop_map(|(over, end)| (format!("{over}{end}host"), 0)),
        (select(&["src", "dst", "src or dst", "ip src", "dst and src"][..]))
            .prop_map(|head| (head.to_owned(), 0)),
        (select(&["", "ip6 "][..]), end()).prop_map(|(over, end)| (format!("{over}{end}host"), 1)),
        (select(&["", "ip ", "arp "][..]), end()).prop_map(|(over, end)| (format!("{over}{end}net"), 2)),
        (select(&["", "ip6 "][..]), end()).prop_map(|(over, end)| (format!("{over}{end}net"), 3)),
        (select(&["", "tcp ", "udp ", "sctp "][..]), end())
            .prop_map(|(over, end)| (format!("{over}{end}port"), 4)),
        (select(&["", "tcp ", "udp ", "sctp "][..]), end())
            .prop_map(|(over, end)| (format!("{over}{end}portrange"), 5)),
        select(&["proto", "ip proto", "ip6 proto"][..]).prop_map(|head| (head.to_owned(), 6)),
    ];
    head.prop_flat_map(|(head, kind)| {
        let list = |values: Vec<(&str, &str, String)>| {
            values.iter().enumerate().fold(String::new(), |text, (at, (operator, not, value))| {
                let operator = if at == 0 { "" } else { operator };
                format!("{text}{operator}{not}{value}")
            })
        };
        let item = || (select(&[" or ", " and "][..]), select(&["", "", "not ", "!"][..]), value(kind));
        let several = (vec(item(), 1..4), any::<bool>()).prop_map(move |(values, within)| match within {
            // tcpdump wants two at least in parentheses.
            true if values.len() > 1 => format!("({})", list(values)),
            _ => list(values),
        });
        several.prop_map(move |values| format!("{head} {values}"))
    })
}

fn value(kind: usize) -> BoxedStrategy<String> {
    let texts: &'static [&'static str] = match kind {
        1 => &IPV6,
        2 => &[
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.0.0.1/32",
            "0.0.0.0/0",
            "10",
            "10.0",
            "10.0.1",
            "10.0.0.1",
            "192.168/16",
        ],
        3 => &["2001:db8::/32", "2001:db8:1::/48", "::/0", "fe80::1", "fe80::/10"],
        5 => &["80-443", "8080-80", "53", "0-65535", "0-79"],
        6 => &["0", "1", "6", "17", "44", "58", "132", "255", "\\tcp", "\\udp"],
        _ => &[],
    };
    match kind {
        0 => select(&IPV4[..]).prop_map(|octets| std::net::Ipv4Addr::from(octets).to_string()).boxed(),
        4 => select(&PORTS[..]).prop_map(|port| port.to_string()).boxed(),
        _ => select(texts).prop_map(str::to_owned).boxed(),
    }
}
