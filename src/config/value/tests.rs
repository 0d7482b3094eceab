//! Values, well and badly written.

use super::*;

#[test]
fn sizes_are_decimal_unless_they_say_otherwise() {
    for (text, bytes) in [
        ("5MB", 5_000_000),
        ("5M", 5_000_000),
        ("5 mb", 5_000_000),
        ("5MiB", 5_242_880),
        ("17", 17),
        ("1.5kB", 1500),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in [
        "",
        "MB",
        "-5MB",
        "5MB/s",
        "5 apples",
        "99999999999999999999EB",
    ] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn rates_are_sizes_a_second_and_none_lifts_them() {
    assert_eq!(rate("5MB"), Ok(5_000_000));
    assert_eq!(rate("5MB/s"), Ok(5_000_000));
    assert_eq!(rate("none"), Ok(UNLIMITED));
    assert!(rate("0").is_err());
    assert!(rate("fast").is_err());
}

#[test]
fn wire_compression_is_auto_off_or_a_level() {
    assert_eq!(wire_compression("auto"), Ok(WireCompression::Auto));
    assert_eq!(wire_compression("none"), Ok(WireCompression::Off));
    assert_eq!(wire_compression("1"), Ok(WireCompression::Level(1)));
    assert_eq!(wire_compression("19"), Ok(WireCompression::Level(19)));
    for text in ["0", "20", "-1", "fast", "3.5"] {
        assert!(wire_compression(text).is_err(), "{text}");
    }
}

#[test]
fn durations_are_seconds_unless_they_say_otherwise() {
    assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("10.0"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("2.5"), Ok(Duration::from_millis(2500)));
    assert_eq!(duration("10min"), Ok(Duration::from_secs(600)));
    for text in ["", "-1", "nan", "inf", "1e300", "11years", "soon"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn stores_are_written_as_nix_writes_them() {
    assert_eq!(nix_store("auto"), Ok(NixStore::Auto));
    assert_eq!(nix_store("local"), Ok(NixStore::Local { root: None }));
    assert_eq!(
        nix_store("local?root=/srv/a%20b"),
        Ok(NixStore::Local {
            root: Some("/srv/a b".into())
        })
    );
    assert_eq!(nix_store("daemon"), Ok(NixStore::Daemon { socket: None }));
    assert_eq!(
        nix_store("unix:///run/nix%20socket"),
        Ok(NixStore::Daemon {
            socket: Some("/run/nix socket".into())
        })
    );
    for text in [
        "unix://",
        "unix://relative",
        "unix:///run/nix?root=/srv",
        "local?root=relative",
        "local?root=/a%zz",
        "ssh://host",
        "",
    ] {
        assert!(nix_store(text).is_err(), "{text}");
    }
}

#[test]
fn relays_are_default_off_or_urls_and_not_mixed() {
    let words = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(relay(&words(&["off"])), Ok(Relay::Off));
    assert_eq!(relay(&words(&["none"])), Ok(Relay::Off));
    assert_eq!(relay(&words(&["default"])), Ok(Relay::Default));
    assert!(
        matches!(relay(&words(&["https://a.example", "http://10.0.0.1:3340"])), Ok(Relay::Custom(urls)) if urls.len() == 2)
    );
    assert!(relay(&words(&["off", "https://a.example"])).is_err());
    assert!(relay(&words(&["a.example"])).is_err());
    assert!(relay(&words(&["ftp://a.example"])).is_err());
}

#[test]
fn insecure_urls_need_to_be_allowed() {
    assert_eq!(
        http_url("https://cache.example/", "upstream", false),
        Ok("https://cache.example".to_owned())
    );
    assert!(
        http_url("http://cache.example", "upstream", false)
            .unwrap_err()
            .contains("must use HTTPS")
    );
    assert!(http_url("http://cache.example", "upstream", true).is_ok());
    assert!(http_url("cache.example", "upstream", true).is_err());
    assert!(http_url("file:///x", "upstream", true).is_err());
}
