//! Tickets as people paste them, and as they should not.

use iroh::SecretKey;
use proptest::prelude::*;

use super::*;

fn ticket(seed: u8, ports: &[u16], names: &[String]) -> Ticket {
    let id = SecretKey::from_bytes(&[seed; 32]).public();
    let addrs = ports
        .iter()
        .map(|port| TransportAddr::Ip(([10, 0, 0, seed], *port).into()));
    let relay = TransportAddr::Relay("https://relay.example".parse().unwrap());
    let paths = names
        .iter()
        .map(|name| StorePath::from_parts([seed; 20], name).unwrap());
    let addr = EndpointAddr::from_parts(id, addrs.chain([relay]));
    Ticket::new(addr, paths.collect())
}

fn sample() -> Ticket {
    ticket(7, &[12306], &["hello-1.0".to_owned()])
}

#[test]
fn a_ticket_is_one_word_and_survives_pasting() {
    let text = sample().to_string();
    assert!(
        text.starts_with("peerix") && text.chars().all(|letter| letter.is_ascii_alphanumeric())
    );
    assert_eq!(text.parse(), Ok(sample()));
    assert_eq!(format!("  {}\n", text.to_uppercase()).parse(), Ok(sample()));
    assert_eq!(
        <Ticket as iroh_tickets::Ticket>::decode_string(&text).unwrap(),
        sample()
    );
}

#[test]
fn the_text_of_a_ticket_does_not_change_between_versions() {
    let bytes = sample().encode_bytes();
    assert_eq!(bytes[0], 1);
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        "880bf82c852d61a0067af03e5995dd223326cf24847a33ac1181f9c2411d144b",
    );
}

#[test]
fn a_ticket_names_a_swarm_that_is_not_the_public_one() {
    let ours = sample().in_swarm("ours");
    assert_eq!(ours.encode_bytes()[0], 3);
    assert_eq!(ours.to_string().parse(), Ok(ours.clone()));
    assert_eq!(sample().in_swarm("public"), sample());
    let peer: PeerAddr = ours.to_string().parse().unwrap();
    assert_eq!(peer.clone().of_swarm("ours"), Ok(sample().addr));
    let error = peer.of_swarm("public").unwrap_err().to_string();
    assert!(
        error.contains("of the swarm `ours`, and this machine is of `public`"),
        "{error}"
    );
    let public: PeerAddr = sample().to_string().parse().unwrap();
    assert!(public.of_swarm("ours").is_err());
    // Words of a stranger, which a terminal would act on.
    let bad = Ticket {
        swarm: Some("\u{1b}[2J".to_owned()),
        ..sample()
    };
    assert_eq!(bad.to_string().parse::<Ticket>(), Err(TicketError::Damaged));
}

#[test]
fn a_ticket_that_is_cut_anywhere_says_so() {
    let text = sample().to_string();
    for length in "peerix".len()..text.len() {
        assert_eq!(
            text[..length].parse::<Ticket>(),
            Err(TicketError::Damaged),
            "{length}"
        );
    }
}

#[test]
fn foreign_texts_are_told_from_damaged_tickets() {
    let foreign = |text: &str| text.parse::<Ticket>().unwrap_err().to_string();
    assert!(foreign("endpointabc").contains("iroh endpoint ticket"));
    assert!(foreign("/nix/store/x").contains("store path"));
    assert_eq!(
        foreign(""),
        "not a peerix ticket: those begin with `peerix`"
    );
    assert_eq!(
        "x".repeat(MAX_TICKET_LENGTH + 1).parse::<Ticket>(),
        Err(TicketError::TooLong)
    );
    let mut bytes = vec![9, 1, 2, 3];
    let checksum = checksum_of(&bytes);
    bytes.extend(checksum);
    assert_eq!(
        Ticket::decode(&bytes),
        Err(TicketError::Newer { version: 9 })
    );
    let mut longer = sample().encode_bytes();
    longer.truncate(longer.len() - CHECKSUM_LENGTH);
    longer.push(0);
    let checksum = checksum_of(&longer);
    longer.extend(checksum);
    assert_eq!(Ticket::decode(&longer), Err(TicketError::Damaged));
}

#[test]
fn a_peer_is_a_ticket_or_an_id_at_an_address() {
    let id = sample().addr.id;
    let public = |addr| PeerAddr {
        addr,
        swarm: Some("public".to_owned()),
    };
    assert_eq!(sample().to_string().parse(), Ok(public(sample().addr)));
    let direct = EndpointAddr::new(id).with_ip_addr("[::1]:12306".parse().unwrap());
    let direct = PeerAddr {
        addr: direct,
        swarm: None,
    };
    assert_eq!(format!("{id}@[::1]:12306").parse(), Ok(direct));
    for (text, reason) in [
        (format!("{id}@host.example:1"), "after @ comes"),
        (format!("{id}@10.0.0.1"), "after @ comes"),
        (format!("{id}@10.0.0.1:0"), "nothing can be reached"),
        ("abc@10.0.0.1:1".to_owned(), "not an endpoint id"),
    ] {
        assert!(
            text.parse::<PeerAddr>()
                .unwrap_err()
                .to_string()
                .contains(reason),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn every_ticket_comes_back(seed: u8, ports in prop::collection::vec(1u16.., 0..5), names in prop::collection::vec("[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,60}", 0..20)) {
        let ticket = ticket(seed, &ports, &names);
        prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }

    #[test]
    fn one_wrong_letter_is_noticed(position in 6usize..200, letter in "[a-z2-7]") {
        let text = sample().to_string();
        let position = 6 + position % (text.len() - 6);
        let mut mistyped = text.clone();
        mistyped.replace_range(position..=position, &letter);
        prop_assume!(mistyped != text);
        prop_assert_eq!(mistyped.parse::<Ticket>(), Err(TicketError::Damaged));
    }

    #[test]
    fn no_text_panics(text in ".{0,200}", tail in "[a-z2-7]{0,300}") {
        let _ = text.parse::<Ticket>();
        let _ = text.parse::<PeerAddr>();
        let _ = format!("peerix{tail}").parse::<Ticket>();
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Ticket::decode(&bytes);
        let mut checked = vec![VERSION];
        checked.extend(&bytes);
        let checksum = checksum_of(&checked);
        checked.extend(checksum);
        let _ = Ticket::decode(&checked);
    }
}

#[test]
fn a_key_and_a_token_travel_with_a_ticket() {
    let key = TrustedPublicKey::parse("host-1:ySHE64U3am04Omdj/HKI83vIJS+oAMIqv5g73MUbYYM=");
    let full = Ticket {
        key: key.ok(),
        token: Some(ShareToken::from_bytes([3; 16])),
        ..sample()
    };
    assert!(full.key.is_some());
    assert_eq!(full.to_string().parse::<Ticket>().unwrap(), full);
    // Without them it is a ticket that every build reads.
    let open = Ticket {
        key: None,
        token: None,
        ..full.clone()
    };
    assert_eq!(open, sample());
    assert!(open.to_string().len() < full.to_string().len());
    // Every beginning of one is damaged, and so is a name that a terminal would act on.
    let text = full.to_string();
    for length in 6..text.len() {
        assert!(text[..length].parse::<Ticket>().is_err());
    }
    assert!(super::key(("a\x1b[2J".to_owned(), [0; 32])).is_err());
}
