use std::io::Cursor;

use proptest::prelude::*;

use super::*;

const NEW: Version = Version::new(1, 34);
const OLD: Version = Version::new(1, 21);

fn wire(put: impl FnOnce(&mut Wire<Cursor<Vec<u8>>>)) -> Wire<Cursor<Vec<u8>>> {
    let mut writer = Wire::new(Cursor::new(Vec::new()));
    put(&mut writer);
    Wire::new(Cursor::new(writer.request))
}

#[test]
fn texts_are_padded_to_eight_bytes() {
    for (text, size) in [("", 8), ("a", 16), ("12345678", 16), ("123456789", 24)] {
        let mut wire = wire(|wire| {
            wire.put_text(text.as_bytes()).put_number(7);
        });
        assert_eq!(wire.stream.get_ref().get_ref().len(), size + 8, "{text}");
        assert_eq!(wire.text().unwrap(), text);
        assert_eq!(wire.number().unwrap(), 7, "{text}");
    }
}

#[test]
fn a_text_that_is_too_long_or_wrongly_padded_or_cut_is_refused() {
    for length in [u64::MAX, limits::MAX_DAEMON_TEXT as u64 + 1] {
        let error = wire(|wire| {
            wire.put_number(length);
        })
        .text();
        assert!(matches!(error, Err(DaemonError::Protocol(_))), "{error:?}");
    }
    let mut padded = Wire::new(Cursor::new(
        [&1_u64.to_le_bytes()[..], b"a\0\0\0\0\0\0\x01"].concat(),
    ));
    assert!(matches!(padded.text(), Err(DaemonError::Protocol(_))));
    let mut cut = Wire::new(Cursor::new(
        [&9_u64.to_le_bytes()[..], b"12345678"].concat(),
    ));
    assert!(matches!(cut.text(), Err(DaemonError::Io(_))));
}

#[test]
fn what_the_daemon_logs_is_skipped() {
    let mut wire = wire(|wire| {
        wire.put_number(NEXT).put_text(b"warning: x\n");
        wire.put_number(START_ACTIVITY);
        wire.put_number(1).put_number(3).put_number(105);
        wire.put_text(b"copying").put_number(2);
        wire.put_number(0)
            .put_number(9)
            .put_number(1)
            .put_text(b"f");
        wire.put_number(0);
        wire.put_number(RESULT).put_number(1).put_number(106);
        wire.put_number(1).put_number(0).put_number(5);
        wire.put_number(STOP_ACTIVITY).put_number(1);
        wire.put_number(LAST).put_number(42);
    });
    wire.skip_log(NEW).unwrap();
    assert_eq!(wire.number().unwrap(), 42);
}

#[test]
fn an_error_of_either_form_is_told_and_leaves_the_connection_usable() {
    let new = |wire: &mut Wire<Cursor<Vec<u8>>>| {
        wire.put_number(ERROR).put_text(b"Error").put_number(0);
        wire.put_text(b"Error")
            .put_text(b"\x1b[31;1mno\x1b[0m way\nmore");
        wire.put_number(0).put_number(1).put_number(0);
        wire.put_text(b"while asking").put_number(42);
    };
    let old = |wire: &mut Wire<Cursor<Vec<u8>>>| {
        wire.put_number(ERROR).put_text(b"no way");
        wire.put_number(1).put_number(42);
    };
    for (version, mut wire) in [(NEW, wire(new)), (OLD, wire(old))] {
        let error = wire.skip_log(version).unwrap_err();
        assert!(!error.ends_connection());
        assert_eq!(error.to_string(), "it answered: no way", "{version}");
        assert_eq!(wire.number().unwrap(), 42, "{version}");
    }
}

#[test]
fn versions_are_told_apart() {
    assert_eq!(NEW.number(), 0x122);
    assert_eq!(Version::from_number(0x122), Some(NEW));
    assert_eq!(Version::from_number(0x1_0122), None);
    assert!(Version::new(1, 255) < Version::new(2, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back(text: String) {
        let mut wire = wire(|wire| { wire.put_text(text.as_bytes()); });
        prop_assert_eq!(wire.text().unwrap(), text);
    }

    #[test]
    fn no_bytes_make_a_log_panic(words: Vec<u8>, tag in 0..7_usize, old: bool) {
        let tags = [LAST, ERROR, NEXT, START_ACTIVITY, STOP_ACTIVITY, RESULT, 0];
        let mut bytes = tags[tag].to_le_bytes().to_vec();
        bytes.extend(words);
        let _ = Wire::new(Cursor::new(bytes)).skip_log(if old { OLD } else { NEW });
    }
}
