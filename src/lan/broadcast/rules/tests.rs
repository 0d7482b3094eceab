//! The rules against neighbours, strangers and floods.

use rand::{RngExt, SeedableRng, rngs::ChaCha12Rng};

use super::*;

const PORT: u16 = 12304;

fn rules(now: Instant) -> Rules {
    let mut rules = Rules::new(PORT, now);
    rules.networks(Arc::new(vec![LocalNetwork {
        name: "eth0".into(),
        index: 2,
        v4: vec!["10.77.0.6/24".parse().unwrap()],
        v6: Vec::new(),
    }]));
    rules
}

fn path_hash(number: u8) -> StorePathHash {
    StorePathHash::from_bytes([number; 20])
}

fn from(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn request(id: u32) -> Vec<u8> {
    Datagram::Request {
        id,
        path_hash: path_hash(1),
    }
    .encode()
}

fn response(id: u32, number: u8) -> Vec<u8> {
    Datagram::Response {
        id,
        http_port: 8080,
        path_hash: path_hash(number),
    }
    .encode()
}

#[test]
fn a_neighbours_request_is_answered_and_a_strangers_is_not() {
    let now = Instant::now();
    let mut rules = rules(now);
    let to = from("10.77.0.5:12304");
    let answer = Action::Answer {
        to,
        id: 9,
        path_hash: path_hash(1),
    };
    assert_eq!(rules.handle(&request(9), to, now), answer);
    for (stranger, reason) in [
        ("8.8.8.8:12304", "address"),
        ("192.168.1.5:12304", "address"),
        ("127.0.0.1:12304", "address"),
        ("[fd00::5]:12304", "address"),
        ("10.77.0.6:12304", "own"),
    ] {
        let action = rules.handle(&request(9), from(stranger), now);
        assert_eq!(action, Action::Drop(reason), "{stranger}");
    }
}

#[test]
fn twenty_requests_a_second_of_each_address_are_answered() {
    let start = Instant::now();
    let mut rules = rules(start);
    for address in ["10.77.0.5:12304", "10.77.0.7:12304"] {
        let answered = (0..10_000u64)
            .filter(|number| {
                let now = start + Duration::from_micros(number * 1000);
                rules.handle(&request(1), from(address), now) != Action::Drop("rate")
            })
            .count();
        // Ten seconds, after a second's worth at once; the second address' clock does not go back.
        assert!(
            (20..=221).contains(&answered),
            "{answered} answers to {address}"
        );
    }
}

#[test]
fn an_answer_counts_from_whom_was_asked_alone() {
    let now = Instant::now();
    let mut rules = rules(now);
    assert_eq!(
        rules.handle(&response(7, 1), from("10.77.0.5:12304"), now),
        Action::Drop("unasked")
    );
    let (datagram, targets) = rules.ask(7, path_hash(1), now);
    assert_eq!(datagram, request(7));
    assert_eq!(targets, [(2, from("10.77.0.255:12304"))]);
    for (bytes, sender) in [
        (response(8, 1), "10.77.0.5:12304"),
        (response(7, 2), "10.77.0.5:12304"),
        (response(7, 1), "10.77.0.5:12305"),
    ] {
        assert_eq!(
            rules.handle(&bytes, from(sender), now),
            Action::Drop("unasked")
        );
    }
    let elsewhere = rules.handle(&response(7, 1), from("10.78.0.5:12304"), now);
    assert_eq!(elsewhere, Action::Drop("address"));
    for _ in 0..limits::ANSWERS_HEARD {
        let found = Action::Found {
            id: 7,
            http: from("10.77.0.5:8080"),
        };
        assert_eq!(
            rules.handle(&response(7, 1), from("10.77.0.5:12304"), now),
            found
        );
    }
    let surplus = rules.handle(&response(7, 1), from("10.77.0.9:12304"), now);
    assert_eq!(surplus, Action::Drop("surplus"));
    let later = now + limits::SILENT_INTERVAL;
    rules.tidy(later);
    let late = rules.handle(&response(7, 1), from("10.77.0.5:12304"), later);
    assert_eq!(late, Action::Drop("unasked"));
}

#[test]
fn a_network_where_nobody_answers_is_soon_not_waited_for() {
    let mut now = Instant::now();
    let mut rules = rules(now);
    let (mut waited, mut sent) = (Duration::ZERO, 0);
    for id in 0..2000 {
        now += Duration::from_millis(10);
        match rules.asking(now) {
            Asking::Wait(wait) => {
                waited += wait;
                rules.ask(id, path_hash(1), now);
            }
            Asking::DontWait => {
                sent += 1;
                rules.ask(id, path_hash(1), now);
            }
            Asking::Skip => {}
        }
        rules.tidy(now);
    }
    assert!(waited <= limits::ANSWER_WAIT * limits::SILENT_QUESTIONS);
    assert!((18..=21).contains(&sent), "{sent} in 20 s");
    // Whoever answers one of those is waited for from then on.
    now += limits::SILENT_INTERVAL;
    assert_eq!(rules.asking(now), Asking::DontWait);
    rules.ask(7777, path_hash(1), now);
    let answer = rules.handle(&response(7777, 1), from("10.77.0.5:12304"), now);
    assert!(matches!(answer, Action::Found { .. }));
    for _ in 0..20 {
        assert_eq!(rules.asking(now), Asking::Wait(limits::ANSWER_WAIT_LEAST));
    }
    now += limits::HEARD_AGE;
    assert!(!matches!(rules.asking(now), Asking::Wait(_)));
}

#[test]
fn the_wait_follows_how_long_answers_take() {
    let mut now = Instant::now();
    let mut rules = rules(now);
    for (id, milliseconds) in [(1, 20), (2, 22), (3, 500), (4, 500)] {
        rules.ask(id, path_hash(1), now);
        now += Duration::from_millis(milliseconds);
        rules.handle(&response(id, 1), from("10.77.0.5:12304"), now);
        let Asking::Wait(wait) = rules.asking(now) else {
            panic!("heard")
        };
        assert!(
            (limits::ANSWER_WAIT_LEAST..=limits::ANSWER_WAIT).contains(&wait),
            "{wait:?}"
        );
        assert!(wait >= Duration::from_millis(milliseconds).min(limits::ANSWER_WAIT));
    }
}

#[test]
fn without_a_private_network_nobody_is_asked() {
    let now = Instant::now();
    assert_eq!(Rules::new(PORT, now).asking(now), Asking::Skip);
}

#[test]
fn a_million_random_datagrams_are_dropped_within_bounded_memory() {
    let seed = std::env::var("PEERIX_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("PEERIX_TEST_SEED={seed}");
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let start = Instant::now();
    let mut now = start;
    let mut rules = rules(start);
    rules.ask(1, path_hash(1), start);
    let (mut dropped, mut answers) = (0u32, 0u32);
    let mut bytes = [0; 100];
    for number in 0..1_000_000 {
        now += Duration::from_micros(10);
        rng.fill(&mut bytes[..]);
        let length = match rng.random_range(0..4) {
            0 => 37,
            1 => 55,
            _ => rng.random_range(0..=100),
        };
        // Half of them are nearly right: that gets further in.
        if rng.random() {
            let near = if length == 55 {
                response(rng.random_range(0..3), 1)
            } else {
                request(rng.random())
            };
            bytes[..near.len()].copy_from_slice(&near);
            let at = rng.random_range(0..near.len() * 2);
            if at < near.len() {
                bytes[at] = rng.random();
            }
        }
        let sender = [10, 77, 0, rng.random()];
        match rules.handle(&bytes[..length], SocketAddr::from((sender, 12304)), now) {
            Action::Drop(_) => dropped += 1,
            Action::Answer { .. } | Action::Found { .. } => answers += 1,
        }
        if number % 100_000 == 0 {
            rules.tidy(now);
        }
    }
    let (addresses, questions) = rules.remembered();
    assert!(
        addresses <= 256 && questions <= 1,
        "{addresses} addresses, {questions} questions"
    );
    // Ten seconds in all, after a second's worth at once.
    let at_most = limits::REQUESTS_PER_SECOND * 11 + limits::ANSWERS_HEARD as u32;
    assert!(answers <= at_most, "{answers} of a flood were answered");
    assert_eq!(dropped + answers, 1_000_000);
}
