use super::*;
use crate::trust::testing::{SIGNED, SOURCE, Signer, VECTOR_KEY, made_up, path_info, public_key};

fn rules(keys: Vec<TrustedPublicKey>, filter: Filter) -> OfferRules {
    OfferRules {
        filter,
        ..OfferRules::public(keys)
    }
}

fn public_policy(keys: Vec<TrustedPublicKey>) -> OfferPolicy {
    OfferPolicy::new(rules(keys, Filter::PublicCaches))
}

#[test]
fn what_a_public_cache_signed_is_public_and_nothing_else() {
    let policy = public_policy(vec![public_key(VECTOR_KEY)]);
    let signed = path_info(SIGNED);
    for _ in 0..2 {
        assert!(policy.is_public(&signed));
        assert!(!policy.is_public(&made_up(1, [2; 32], 96)));
        let own = Signer::new("my-laptop-1", 1).signed(made_up(1, [2; 32], 96));
        assert!(!policy.is_public(&own));
    }
    assert!(!public_policy(Vec::new()).is_public(&signed));
}

#[test]
fn a_remembered_verdict_is_for_exactly_these_fields() {
    let policy = public_policy(vec![public_key(VECTOR_KEY)]);
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

#[test]
fn excluded_names_are_not_offered_whoever_signed_them() {
    let signed = path_info(SIGNED);
    for filter in [Filter::PublicCaches, Filter::Vouched] {
        let mut rules = rules(vec![public_key(VECTOR_KEY)], filter);
        assert!(OfferPolicy::new(rules.clone()).is_offered_unasked(&signed));
        rules.excluded = Patterns::new(&["*-x"]).unwrap();
        assert!(!OfferPolicy::new(rules).is_offered_unasked(&signed));
    }
}

#[test]
fn rules_offer_what_somebody_vouches_for() {
    let vouched = |rules: &OfferRules, info: &PathInfo| {
        OfferPolicy::new(rules.clone()).is_offered_unasked(info)
    };
    let mut rules = rules(Vec::new(), Filter::Vouched);
    let mine = Signer::new("my-laptop-1", 1);
    let (unsigned, signed) = (
        made_up(1, [2; 32], 96),
        mine.signed(made_up(1, [2; 32], 96)),
    );
    assert!(!vouched(&rules, &unsigned) && !vouched(&rules, &signed));
    assert!(vouched(&rules, &path_info(SOURCE)), "a content address");
    rules.trust = Trust::new(vec![mine.public()], false);
    assert!(vouched(&rules, &signed) && !vouched(&rules, &unsigned));
    let key = crate::signing::SigningKey::generate("k-1").unwrap();
    rules.signing = Signing::new(Some(key), None);
    assert!(vouched(&rules, &unsigned));
}

#[test]
fn the_upstream_is_asked_for_what_nobody_has_signed() {
    let policy = public_policy(vec![public_key(VECTOR_KEY)]);
    let unsigned = made_up(1, [2; 32], 96);
    assert!(policy.is_to_be_asked(&unsigned));
    assert!(!policy.is_to_be_asked(&path_info(SIGNED)));
    let own = Signer::new("company-1", 1).signed(unsigned.clone());
    assert!(!policy.is_to_be_asked(&own), "a private build is told of");
    policy
        .public_paths()
        .note(&unsigned, public::Asked::Has(Box::new(unsigned.clone())));
    assert!(!policy.is_to_be_asked(&unsigned) && policy.is_public(&unsigned));
}
