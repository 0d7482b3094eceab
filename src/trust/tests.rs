use peerix_store::nix::{NarHash, PathInfo, StorePath};
use proptest::prelude::*;

use super::testing::{
    ADDRESSED, FLAT, SIGNED, SOURCE, Signer, VECTOR_KEY, made_up, path_info, public_key,
};
use super::*;

fn unsigned(narinfo: &str) -> PathInfo {
    PathInfo {
        signatures: Vec::new(),
        ..path_info(narinfo)
    }
}

fn without_address(narinfo: &str) -> PathInfo {
    PathInfo {
        content_address: None,
        ..path_info(narinfo)
    }
}

#[test]
fn the_real_nix_s_signatures_are_believed_with_references_and_without() {
    let trust = Trust::new(vec![public_key(VECTOR_KEY)], false);
    assert_eq!(trust.check(&without_address(SIGNED)), Ok(()));
    assert_eq!(trust.check(&without_address(SOURCE)), Ok(()));
}

#[test]
fn a_signature_covers_exactly_path_hash_size_and_references() {
    let trust = Trust::new(vec![public_key(VECTOR_KEY)], false);
    let signed = without_address(SIGNED);
    let store_path = signed.store_path.clone();
    let renamed = StorePath::from_parts(*store_path.digest(), "y").unwrap();
    let first = signed.references.first().cloned().unwrap();
    let mut fewer = signed.references.clone();
    fewer.remove(&first);
    let mut more = signed.references.clone();
    more.insert(store_path);
    for forged in [
        PathInfo {
            store_path: renamed,
            ..signed.clone()
        },
        PathInfo {
            nar_hash: NarHash::from_bytes([7; 32]),
            ..signed.clone()
        },
        PathInfo {
            nar_size: signed.nar_size + 1,
            ..signed.clone()
        },
        PathInfo {
            references: fewer,
            ..signed.clone()
        },
        PathInfo {
            references: more,
            ..signed.clone()
        },
    ] {
        let refused = trust.check(&forged).unwrap_err();
        assert!(
            matches!(refused, TrustError::WrongSignature { .. }),
            "{refused}"
        );
        assert_eq!(trust.accept(forged.clone()), Err(refused));
        assert_eq!(Trust::new(Vec::new(), true).check(&forged), Ok(()));
    }
    let unsigned_fields = PathInfo {
        registration_time: 9,
        deriver: Some(first),
        ..signed
    };
    assert_eq!(trust.check(&unsigned_fields), Ok(()));
}

#[test]
fn h3_the_right_signature_of_another_path_is_refused() {
    let trust = Trust::new(vec![public_key(VECTOR_KEY)], false);
    let swapped = PathInfo {
        signatures: path_info(SOURCE).signatures,
        ..without_address(SIGNED)
    };
    let refused = trust.check(&swapped).unwrap_err();
    assert!(
        matches!(refused, TrustError::WrongSignature { .. }),
        "{refused}"
    );
}

#[test]
fn h3_a_key_that_is_no_longer_trusted_is_refused_by_name() {
    let refused = Trust::new(Vec::new(), false)
        .check(&without_address(SIGNED))
        .unwrap_err();
    let TrustError::UntrustedSigner { signers, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(signers, "vector-1");
    assert!(
        refused.to_string().contains("--trusted-public-key"),
        "{refused}"
    );
}

#[test]
fn h3_another_key_under_a_trusted_name_is_refused() {
    let info = made_up(1, [2; 32], 96);
    let honest = Signer::new("cache-1", 1);
    let impostor = Signer::new("cache-1", 2);
    let trust = Trust::new(vec![honest.public()], false);
    assert_eq!(trust.check(&honest.signed(info.clone())), Ok(()));
    assert!(trust.check(&impostor.signed(info.clone())).is_err());
    let both = PathInfo {
        signatures: vec![impostor.sign(&info), honest.sign(&info)],
        ..info
    };
    assert_eq!(trust.check(&both), Ok(()));
    assert_eq!(
        trust.accept(both.clone()).unwrap().signatures,
        both.signatures[1..]
    );
}

#[test]
fn nothing_is_believed_without_a_signature() {
    let trust = Trust::new(vec![public_key(VECTOR_KEY)], false);
    for info in [unsigned(SIGNED), unsigned(FLAT), made_up(1, [2; 32], 96)] {
        let refused = trust.check(&info).unwrap_err();
        assert!(matches!(refused, TrustError::Unsigned { .. }), "{refused}");
    }
}

#[test]
fn malformed_signatures_neither_count_nor_hide_a_right_one() {
    let trust = Trust::new(vec![public_key(VECTOR_KEY)], false);
    let right = path_info(SIGNED).signatures[0].clone();
    let wrong = [
        "",
        ":",
        "vector-1",
        "vector-1:",
        "vector-1:AAAA",
        "vector-1:%%%",
        "a\nCA: b:AAAA",
    ];
    let mut signatures: Vec<String> = wrong.map(str::to_owned).into();
    let malformed = PathInfo {
        signatures: signatures.clone(),
        ..without_address(SIGNED)
    };
    assert!(matches!(
        trust.check(&malformed),
        Err(TrustError::Unsigned { .. })
    ));
    signatures.push(right.clone());
    let accepted = trust
        .accept(PathInfo {
            signatures,
            ..malformed
        })
        .unwrap();
    assert_eq!(accepted.signatures, [right]);
}

#[test]
fn a_fixed_recursive_sha256_address_proves_a_path_without_any_key() {
    let nobody = Trust::new(Vec::new(), false);
    for narinfo in [SOURCE, ADDRESSED] {
        let info = unsigned(narinfo);
        assert_eq!(nobody.check(&info), Ok(()));
        assert_eq!(proven_content_address(&info), info.content_address);
        assert_eq!(nobody.accept(info.clone()), Ok(info));
    }
}

#[test]
fn a_content_address_that_proves_nothing_is_refused_and_never_passed_on() {
    let nobody = Trust::new(Vec::new(), false);
    let addressed = unsigned(ADDRESSED);
    let other = unsigned(SOURCE);
    let mut with_itself = addressed.references.clone();
    with_itself.insert(addressed.store_path.clone());
    for wrong in [
        // The address of another path, also with that path's NAR.
        PathInfo {
            content_address: other.content_address.clone(),
            ..addressed.clone()
        },
        PathInfo {
            content_address: other.content_address.clone(),
            nar_hash: other.nar_hash,
            ..addressed.clone()
        },
        // The right address of the path, and another NAR: exactly what must not get through.
        PathInfo {
            nar_hash: NarHash::from_bytes([1; 32]),
            ..addressed.clone()
        },
        PathInfo {
            references: [].into(),
            ..addressed.clone()
        },
        PathInfo {
            references: with_itself,
            ..addressed.clone()
        },
        PathInfo {
            store_path: StorePath::from_parts(*addressed.store_path.digest(), "z").unwrap(),
            ..addressed.clone()
        },
        PathInfo {
            content_address: Some("fixed:r:sha256:".into()),
            ..addressed.clone()
        },
        PathInfo {
            content_address: Some(String::new()),
            ..addressed.clone()
        },
        // Kinds that do not name the NAR hash.
        unsigned(FLAT),
        unsigned(SIGNED),
    ] {
        assert_eq!(proven_content_address(&wrong), None, "{wrong:?}");
        assert!(nobody.check(&wrong).is_err(), "{wrong:?}");
        assert_eq!(with_proven_content_address(wrong).content_address, None);
    }
}

#[test]
fn what_is_passed_on_holds_nothing_that_no_signature_covers() {
    let trust = Trust::new(vec![public_key(VECTOR_KEY)], false);
    let deriver = Some(StorePath::from_parts([3; 20], "lie.drv").unwrap());
    let mut told = PathInfo {
        deriver,
        ..path_info(SIGNED)
    };
    let stranger = Signer::new("stranger-1", 5).sign(&told);
    told.signatures.push(stranger);
    let accepted = trust.accept(told.clone()).unwrap();
    assert_eq!(accepted.deriver, None);
    assert_eq!(accepted.content_address, None);
    assert_eq!(accepted.signatures, told.signatures);
}

#[test]
fn a_flood_of_signatures_is_cut() {
    let info = made_up(1, [2; 32], 96);
    let signer = Signer::new("cache-1", 1);
    let wrong = signer.sign(&made_up(2, [2; 32], 96));
    let mut signatures = vec![wrong; 100_000];
    signatures.push(signer.sign(&info));
    let flooded = PathInfo { signatures, ..info };
    assert!(
        Trust::new(vec![signer.public()], false)
            .check(&flooded)
            .is_err()
    );
}

proptest! {
    #[test]
    fn any_address_and_any_signature_is_refused_without_a_panic(
        content_address in proptest::option::of(".{0,80}|fixed:r:sha256:[0-9a-z]{52}"),
        signatures in proptest::collection::vec(".{0,120}|vector-1:[a-zA-Z0-9+/]{86}==", 0..4),
    ) {
        let info = PathInfo { content_address, signatures, ..made_up(1, [2; 32], 96) };
        let trust = Trust::new(vec![public_key(VECTOR_KEY)], false);
        prop_assert!(trust.check(&info).is_err());
    }
}

#[test]
fn a_lease_trusts_a_key_as_long_as_it_is_held() {
    let signer = Signer::new("host-1", 3);
    let info = signer.signed(made_up(1, [2; 32], 96));
    let trust = Trust::new(Vec::new(), false);
    let lease = trust.clone().lease(signer.public());
    let second = trust.lease(signer.public());
    drop(lease);
    assert_eq!(trust.check(&info), Ok(()));
    drop(second);
    assert!(trust.check(&info).is_err());
}
