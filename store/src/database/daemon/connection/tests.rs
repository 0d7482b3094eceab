use std::{io::Cursor, os::unix::net::UnixListener, thread};

use proptest::prelude::*;

use super::*;

const LAST: u64 = 0x616c_7473;
const PATH: &str = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-a";
const HASH: &str = "17bh691vzkqk8hv1i7xiaqff85b85br3";

/// What a daemon says, whatever it is asked, and what it was asked.
struct Script {
    said: Cursor<Vec<u8>>,
    asked: Vec<u8>,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.said.read(buffer)
    }
}

impl Write for Script {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.asked.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Said(Vec<u8>);

impl Said {
    fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut said = self.number(text.len() as u64);
        said.0.extend(text.as_bytes());
        said.0.resize(said.0.len().next_multiple_of(8), 0);
        said
    }

    fn handshake(minor: u64) -> Self {
        let mut said = Self::default().number(DAEMON_MAGIC).number(0x100 | minor);
        if minor >= 33 {
            said = said.text("2.8.0");
        }
        if minor >= 35 {
            said = said.number(1);
        }
        said.number(LAST)
    }

    /// The record of [`PATH`].
    fn info(self) -> Self {
        self.number(LAST)
            .number(1)
            .text("")
            .text(&"ab".repeat(32))
            .number(1)
            .text(PATH)
            .number(1_700_000_000)
            .number(96)
            .number(1)
            .number(1)
            .text("key:AAAA")
            .text("")
    }

    fn wire(self) -> Wire<Script> {
        Wire::new(Script {
            said: Cursor::new(self.0),
            asked: Vec::new(),
        })
    }

    fn talk(self) -> Result<Conversation<Script>, DaemonError> {
        Conversation::shake_hands(self.wire())
    }
}

fn path() -> StorePath {
    StorePath::from_absolute_path(PATH.as_bytes()).unwrap()
}

#[test]
fn hands_are_shaken_at_the_older_of_the_two_versions() {
    for (offered, spoken) in [
        (21, 21),
        (32, 32),
        (33, 33),
        (34, 34),
        (35, 35),
        (37, 37),
        (38, 37),
        (99, 37),
    ] {
        // A daemon answers at the version that it is told, which is never its own newer one.
        let mut said = Said::handshake(spoken);
        said.0[8..16].copy_from_slice(&(0x100_u64 | offered).to_le_bytes());
        let mut talk = said.info().talk().unwrap();
        assert_eq!(talk.version, Version::new(1, spoken as u8));
        let asked = &talk.wire.stream_mut().asked;
        let expected = Said::default()
            .number(CLIENT_MAGIC)
            .number(0x100 | spoken)
            .number(0)
            .number(0);
        assert_eq!(*asked, expected.0, "{offered}");
        let info = talk.path_info(&path()).unwrap().unwrap();
        assert_eq!(info.references, BTreeSet::from([path()]));
        assert_eq!(info.nar_hash, NarHash::from_bytes([0xab; 32]));
        assert_eq!((info.nar_size, info.registration_time), (96, 1_700_000_000));
        assert_eq!((info.deriver, info.content_address), (None, None));
        assert_eq!(info.signatures, ["key:AAAA"]);
    }
}

#[test]
fn what_is_no_daemon_or_too_old_a_one_is_refused() {
    for (said, reason) in [
        (Said::default().number(7).number(7), "no daemon"),
        (Said::handshake(20), "version 1.20"),
        (
            Said::default().number(DAEMON_MAGIC).number(0x200),
            "version 2.0",
        ),
        (
            Said::default().number(DAEMON_MAGIC).number(u64::MAX),
            "version 1844",
        ),
    ] {
        let error = said.talk().err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_path_of_another_hash_and_a_record_that_nix_would_not_write_are_malformed() {
    let other = Said::handshake(34)
        .number(LAST)
        .text(&PATH.replace("17bh", "27bh"));
    let error = other.talk().unwrap().path_of(HASH.parse().unwrap());
    assert!(
        matches!(error, Err(DaemonError::Malformed { .. })),
        "{error:?}"
    );
    // An empty NAR; the connection is good for the next answer.
    let empty = Said::handshake(34)
        .number(LAST)
        .number(1)
        .text("")
        .text(&"ab".repeat(32))
        .number(0)
        .number(0)
        .number(0)
        .number(0)
        .number(0)
        .text("")
        .info();
    let mut talk = empty.talk().unwrap();
    let error = talk.path_info(&path());
    assert!(
        matches!(error, Err(DaemonError::Malformed { .. })),
        "{error:?}"
    );
    assert!(talk.path_info(&path()).unwrap().is_some());
}

#[test]
fn counts_beyond_any_bound_are_refused_before_anything_is_read() {
    let list = Said::handshake(34).number(LAST).number(u64::MAX);
    let error = list.clone().talk().unwrap().valid_paths();
    assert!(matches!(error, Err(DaemonError::Protocol(_))), "{error:?}");
    let error = list.talk().unwrap().path_of(HASH.parse().unwrap());
    assert!(matches!(error, Err(DaemonError::Protocol(_))), "{error:?}");
}

#[test]
fn a_daemon_that_says_nothing_is_given_up_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let patience = Duration::from_millis(100);
    let connect = || DaemonConnection::connect(&socket, patience).err().unwrap();
    assert!(connect().to_string().contains("in time"));
    // Nor does one that talks without end get more time.
    let talker = thread::spawn(move || {
        let (_first, _) = listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&Said::handshake(34).0[..32]).unwrap();
        let line = Said::default().number(0x6f6c_6d67).text("line");
        while stream.write_all(&line.0).is_ok() {}
    });
    let started = Instant::now();
    assert!(connect().to_string().contains("in time"));
    assert!(started.elapsed() < patience * 50);
    talker.join().unwrap();
}

#[test]
fn a_daemon_that_accepts_nobody_is_given_up_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let unbound = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let listener = unbound.unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = UnixStream::connect(&socket).unwrap();
    let error = DaemonConnection::connect(&socket, Duration::from_millis(100));
    let error = error.err().unwrap().to_string();
    assert!(error.contains("in time"), "{error}");
}

/// A valid record, changed in some places.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    changes.prop_map(|changes| {
        let mut said = Said::default().info().0;
        for (place, byte) in changes {
            let place = place.index(said.len());
            said[place] = byte;
        }
        said
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_makes_the_client_panic(
        random: Vec<u8>,
        nearly in nearly_right(),
        minor in 21..=37_u64,
    ) {
        let _ = Said(random.clone()).talk();
        for answer in [random, nearly] {
            for is_settled in [false, true] {
                let mut said = Said::handshake(minor);
                if is_settled {
                    said = said.number(LAST);
                }
                said.0.extend(&answer);
                let talk = || said.clone().talk().unwrap();
                let _ = talk().path_info(&path());
                let _ = talk().path_of(HASH.parse().unwrap());
                let _ = talk().valid_paths();
                let _ = talk().add_root(ADD_TEMP_ROOT, b"x");
            }
        }
    }
}
