use super::*;
use crate::trust::testing::{SIGNED, Signer, VECTOR_KEY, made_up, path_info, public_key};

#[test]
fn what_a_public_cache_signed_is_public_and_nothing_else() {
    let policy = OfferPolicy::new(vec![public_key(VECTOR_KEY)], false);
    let signed = path_info(SIGNED);
    for _ in 0..2 {
        assert!(policy.is_public(&signed));
        assert!(!policy.is_public(&made_up(1, [2; 32], 96)));
        let own = Signer::new("my-laptop-1", 1).signed(made_up(1, [2; 32], 96));
        assert!(!policy.is_public(&own));
    }
    assert!(!OfferPolicy::new(Vec::new(), false).is_public(&signed));
}

#[test]
fn a_remembered_verdict_is_for_exactly_these_fields() {
    let policy = OfferPolicy::new(vec![public_key(VECTOR_KEY)], false);
    let signed = path_info(SIGNED);
    assert!(policy.is_public(&signed));
    for forged in [
        PathInfo {
            nar_size: 209,
            ..signed.clone()
        },
        PathInfo {
            references: [].into(),
            ..signed.clone()
        },
        PathInfo {
            signatures: Vec::new(),
            ..signed.clone()
        },
        PathInfo {
            signatures: vec!["vector-1:AAAA".into()],
            ..signed.clone()
        },
    ] {
        assert!(!policy.is_public(&forged), "{forged:?}");
    }
    assert!(policy.is_public(&signed));
}
