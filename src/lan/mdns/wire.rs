//! Questions and announcements as mDNS messages, as iroh's mDNS address lookup writes them.
//!
//! A peer is an instance of the service `_peerix._udp.local.`, named by its endpoint id in base32.
//! Its `SRV` records name a port each, and the `A` and `AAAA` records of their targets its
//! addresses. One of another swarm than the public one says so in a `TXT` record, which iroh's lookup
//! passes over.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use data_encoding::BASE32_NOPAD;
use hickory_proto::{
    op::{Message as DnsMessage, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use iroh::EndpointId;

use crate::{lan::limits, swarm::id::PUBLIC};

/// How long a receiver may believe an announcement, in seconds.
const TTL: u32 = 120;

/// Peers in one message that are looked at; iroh's lookup and we write one.
const PEERS_PER_MESSAGE: usize = 8;

const SERVICE: &str = "_peerix._udp.local.";

/// What the text begins with that names a swarm.
const SWARM: &str = "swarm=";

/// What of a message concerns us.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Somebody asks who is there.
    Query,
    /// Somebody says who is where.
    Announcements(Vec<Announcement>),
}

/// Where one peer is.
#[derive(Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The peer.
    pub id: EndpointId,
    /// Its addresses, whatever they are.
    pub addrs: Vec<SocketAddr>,
    /// It leaves.
    pub goodbye: bool,
    /// The swarm that it is of, as others are told of it.
    pub swarm: String,
}

/// Asks who is there.
pub fn query() -> Vec<u8> {
    let mut message = DnsMessage::new(0, MessageType::Query, OpCode::Query);
    if let Some(name) = service() {
        let mut query = Query::new();
        query
            .set_query_class(DNSClass::IN)
            .set_query_type(RecordType::PTR)
            .set_name(name);
        message.add_query(query);
    }
    message.to_vec().unwrap_or_default()
}

/// Says where `id` is, which is of this `swarm`, or that it leaves; nothing where it has no address.
pub fn announcement(
    id: EndpointId,
    swarm: &str,
    addrs: &[SocketAddr],
    goodbye: bool,
) -> Option<Vec<u8>> {
    if addrs.is_empty() {
        return None;
    }
    let ttl = if goodbye { 0 } else { TTL };
    let label = BASE32_NOPAD.encode(id.as_bytes()).to_ascii_lowercase();
    let service = service()?;
    let instance = Name::from_ascii(format!("{label}.{SERVICE}")).ok()?;
    let mut message = DnsMessage::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    let pointer = RData::PTR(rdata::PTR(instance.clone()));
    message.add_answer(Record::from_rdata(service, ttl, pointer));
    if swarm != PUBLIC {
        let text = RData::TXT(rdata::TXT::new(vec![format!("{SWARM}{swarm}")]));
        message.add_answer(Record::from_rdata(instance.clone(), ttl, text));
    }
    let mut ports: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    for addr in addrs.iter().take(limits::ADDRESSES_PER_PEER) {
        ports.entry(addr.port()).or_default().push(addr.ip());
    }
    for (port, ips) in ports {
        let target = Name::from_ascii(format!("{label}-{port}.local.")).ok()?;
        let srv = RData::SRV(rdata::SRV::new(0, 0, port, target.clone()));
        message.add_answer(Record::from_rdata(instance.clone(), ttl, srv));
        for ip in ips {
            let address = match ip {
                IpAddr::V4(ip) => RData::A(rdata::A::from(ip)),
                IpAddr::V6(ip) => RData::AAAA(rdata::AAAA::from(ip)),
            };
            message.add_additional(Record::from_rdata(target.clone(), ttl, address));
        }
    }
    message.to_vec().ok()
}

/// Whether the bytes contain our service's name, as a quick way past everybody else's messages.
pub fn may_be_ours(bytes: &[u8]) -> bool {
    bytes
        .windows(b"_peerix".len())
        .any(|part| part.eq_ignore_ascii_case(b"_peerix"))
}

/// Reads a message; `None` where it is none or does not concern us.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let message = DnsMessage::from_vec(bytes).ok()?;
    let service = service()?;
    if message.metadata.message_type == MessageType::Query {
        let asks = message.queries.iter().any(|query| {
            query.query_class() == DNSClass::IN
                && matches!(query.query_type(), RecordType::PTR | RecordType::ANY)
                && *query.name() == service
        });
        return asks.then_some(Message::Query);
    }
    let mut announced: BTreeMap<EndpointId, (bool, Vec<SocketAddr>)> = BTreeMap::new();
    let mut targets: Vec<(&Name, u16, EndpointId)> = Vec::new();
    for record in message.answers.iter().chain(&message.additionals) {
        let RData::SRV(srv) = &record.data else {
            continue;
        };
        if record.dns_class != DNSClass::IN || record.name.base_name() != service {
            continue;
        }
        let Some(id) = record.name.iter().next().and_then(endpoint_id) else {
            continue;
        };
        if announced.len() >= PEERS_PER_MESSAGE && !announced.contains_key(&id) {
            continue;
        }
        announced.entry(id).or_insert((record.ttl == 0, Vec::new()));
        if targets.len() < PEERS_PER_MESSAGE * limits::ADDRESSES_PER_PEER {
            targets.push((&srv.target, srv.port, id));
        }
    }
    for record in message.answers.iter().chain(&message.additionals) {
        let ip: IpAddr = match &record.data {
            RData::A(ip) => ip.0.into(),
            RData::AAAA(ip) => ip.0.into(),
            _ => continue,
        };
        for (_, port, id) in targets.iter().filter(|(name, ..)| **name == record.name) {
            if let Some((_, addrs)) = announced.get_mut(id)
                && addrs.len() < limits::ADDRESSES_PER_PEER * 2
                && *port != 0
            {
                addrs.push(SocketAddr::new(ip, *port));
            }
        }
    }
    let announcements = announced.into_iter().map(|(id, (goodbye, addrs))| {
        let swarm = swarm_of(&message, id).unwrap_or_else(|| PUBLIC.to_owned());
        Announcement {
            id,
            addrs,
            goodbye,
            swarm,
        }
    });
    Some(Message::Announcements(announcements.collect()))
        .filter(|message| *message != Message::Announcements(Vec::new()))
}

/// The swarm that a message says the peer `id` is of.
fn swarm_of(message: &DnsMessage, id: EndpointId) -> Option<String> {
    let mut texts = message.answers.iter().filter_map(|record| {
        let is_its = record.name.iter().next().and_then(endpoint_id) == Some(id);
        match &record.data {
            RData::TXT(text) if is_its => Some(text),
            _ => None,
        }
    });
    texts.find_map(|text| {
        let mut strings = text.txt_data.iter();
        let swarm = strings.find_map(|text| text.strip_prefix(SWARM.as_bytes()))?;
        Some(String::from_utf8_lossy(swarm).into_owned())
    })
}

fn service() -> Option<Name> {
    Name::from_ascii(SERVICE).ok()
}

fn endpoint_id(label: &[u8]) -> Option<EndpointId> {
    let label = label.to_ascii_uppercase();
    let bytes: [u8; 32] = BASE32_NOPAD.decode(&label).ok()?.try_into().ok()?;
    EndpointId::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> EndpointId {
        iroh::SecretKey::from_bytes(&[7; 32]).public()
    }

    #[test]
    fn an_announcement_reads_back_as_it_was_written() {
        let addrs: Vec<SocketAddr> = ["10.0.0.1:1", "10.0.0.2:2", "[fd00::1]:2"]
            .map(|addr| addr.parse().unwrap())
            .to_vec();
        let of_a_swarm = format!("private-{}", "0".repeat(64));
        for (goodbye, swarm) in [(false, PUBLIC), (true, PUBLIC), (false, &of_a_swarm)] {
            let bytes = announcement(id(), swarm, &addrs, goodbye).unwrap();
            assert!(bytes.len() <= limits::MDNS_MESSAGE && may_be_ours(&bytes));
            let Some(Message::Announcements(read)) = parse(&bytes) else {
                panic!("not an announcement");
            };
            let mut read_addrs = read[0].addrs.clone();
            read_addrs.sort_unstable();
            assert_eq!(
                (read.len(), read[0].id, read[0].goodbye),
                (1, id(), goodbye)
            );
            assert_eq!(read[0].swarm, swarm);
            assert_eq!(read_addrs, addrs);
        }
        assert!(announcement(id(), PUBLIC, &[], false).is_none());
    }

    #[test]
    fn questions_of_ours_are_known_and_those_of_others_are_not() {
        assert_eq!(parse(&query()), Some(Message::Query));
        let mut other = query();
        let at = other.windows(6).position(|part| part == b"peerix").unwrap();
        other[at] = b'q';
        assert!(parse(&other).is_none() && !may_be_ours(&other));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_changed_announcement_is_a_panic(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let addrs = ["10.0.0.1:1".parse().unwrap(), "[fd00::1]:2".parse().unwrap()];
            let mut bytes = announcement(id(), "ours", &addrs, false).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            if let Some(Message::Announcements(read)) = parse(&bytes) {
                prop_assert!(read.len() <= PEERS_PER_MESSAGE);
            }
        }
    }
}
