//! DNS messages, as far as the lab's resolver and its probes need them: questions for addresses and their answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::Family;
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE};

/// Names and their addresses, lower case, without the final dot.
pub(crate) type Names = BTreeMap<String, Vec<IpAddr>>;

/// Seconds a resolver may keep an answer: none, for a lab is short-lived.
const TTL: u32 = 0;

/// The reply to a question, or none where the message is no question at all.
pub(crate) fn reply(names: &Names, message: &[u8]) -> Option<Vec<u8>> {
    let query = Packet::parse(message).ok().filter(|query| !query.has_flags(PacketFlag::RESPONSE))?;
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    let question = query.questions.first()?;
    match names.get(&question.qname.to_string().to_ascii_lowercase()) {
        Some(addresses) => {
            let fitting = addresses.iter().filter_map(|address| record(question, *address));
            reply.answers.extend(fitting);
        }
        None => *reply.rcode_mut() = RCODE::NameError,
    }
    reply.questions.push(question.clone());
    reply.build_bytes_vec().ok()
}

/// A question for the addresses of one family.
pub(crate) fn question(id: u16, name: &str, family: Family) -> Result<Vec<u8>, String> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let kind = match family {
        Family::V4 => TYPE::A,
        Family::V6 => TYPE::AAAA,
    };
    let name = Name::new(name).map_err(|error| format!("{name:?} is not a DNS name: {error}"))?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

/// The addresses in the reply to question `id`.
pub(crate) fn addresses(id: u16, message: &[u8]) -> Result<Vec<IpAddr>, String> {
    let reply = Packet::parse(message).map_err(|error| format!("not a DNS message: {error}"))?;
    if reply.id() != id || !reply.has_flags(PacketFlag::RESPONSE) {
        return Err("not the reply to this question".into());
    }
    if reply.rcode() != RCODE::NoError {
        return Err(format!("the resolver said {:?}", reply.rcode()));
    }
    let address = |record: &ResourceRecord| match &record.rdata {
        RData::A(a) => Some(IpAddr::V4(Ipv4Addr::from(a.address))),
        RData::AAAA(a) => Some(IpAddr::V6(Ipv6Addr::from(a.address))),
        _ => None,
    };
    Ok(reply.answers.iter().filter_map(address).collect())
}

fn record<'a>(question: &Question<'a>, address: IpAddr) -> Option<ResourceRecord<'a>> {
    let data = match (question.qtype, address) {
        (QTYPE::TYPE(TYPE::A) | QTYPE::ANY, IpAddr::V4(v4)) => RData::A(A { address: v4.into() }),
        (QTYPE::TYPE(TYPE::AAAA) | QTYPE::ANY, IpAddr::V6(v6)) => RData::AAAA(AAAA { address: v6.into() }),
        _ => return None,
    };
    Some(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_by_family_and_unknown_names_are_refused() {
        let both: Vec<IpAddr> = vec!["10.0.2.20".parse().unwrap(), "2001:db8::20".parse().unwrap()];
        let names = Names::from([("db.lab.internal".to_owned(), both.clone())]);
        let ask = |name, family| addresses(7, &reply(&names, &question(7, name, family).unwrap()).unwrap());
        assert_eq!(ask("DB.lab.internal", Family::V4), Ok(vec![both[0]]));
        assert_eq!(ask("db.lab.internal", Family::V6), Ok(vec![both[1]]));
        assert!(ask("cache.lab.internal", Family::V4).unwrap_err().contains("NameError"));
        let own = question(7, "db.lab.internal", Family::V4).unwrap();
        assert!(addresses(8, &reply(&names, &own).unwrap()).is_err(), "another question's reply");
        assert_eq!(reply(&names, b"short"), None);
    }
}
