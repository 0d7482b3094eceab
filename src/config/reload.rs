//! What of the configuration a running daemon takes over at SIGHUP.

use super::{
    Shown,
    setting::{self, Setting},
};

/// The settings that take effect without a restart; of peers those that are added.
pub static RELOADED: &[&Setting] = &[
    &setting::VERBOSE,
    &setting::PEER,
    &setting::ALLOW_PEER,
    &setting::DENY_PEER,
    &setting::ANNOUNCE,
    &setting::TRUSTED_PUBLIC_KEY,
    &setting::PUBLIC_CACHE_KEY,
    &setting::FILTER_MODE,
    &setting::FILTER_PATTERN,
    &setting::NO_FILTER,
    &setting::UPLOAD_LIMIT,
    &setting::UPLOAD_LIMIT_PER_PEER,
    &setting::QUOTA_PER_DAY,
    &setting::QUOTA_PER_MONTH,
    &setting::UPLOAD_WHEN,
    &setting::HASH_PER_DAY,
];

/// Whether a running daemon takes over another value of `setting`.
pub fn is_reloaded(setting: &Setting) -> bool {
    RELOADED.iter().any(|known| known.flag == setting.flag)
}

/// The keys whose values changed, as `section.key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that take effect at once.
    pub taken: Vec<String>,
    /// Those that take a restart.
    pub left: Vec<String>,
}

/// Takes over what of `new` can be, and tells what changed. What takes a restart stays as it was in
/// `in_force`, so that it is named again each time until there is one.
pub fn take_over(in_force: &mut [Shown], new: &[Shown]) -> Changes {
    let mut changes = Changes::default();
    for new in new {
        let old = in_force
            .iter_mut()
            .find(|old| (&old.section, &old.key) == (&new.section, &new.key));
        let Some(old) = old.filter(|old| old.values != new.values) else {
            continue;
        };
        match Setting::at(&new.section, &new.key).is_some_and(is_reloaded) {
            true => {
                *old = new.clone();
                changes.taken.push(new.name());
            }
            false => changes.left.push(new.name()),
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Given, Layer, Origin, Sources, Surroundings, load};

    fn shown(values: &[(&Setting, &str)]) -> Vec<Shown> {
        let mut flags = Layer::default();
        for (setting, value) in values {
            let given = Given {
                values: vec![(*value).to_owned()],
                origin: Origin::Flag,
            };
            flags.set(setting, given);
        }
        let surroundings = Surroundings {
            home: Some("/home/a".into()),
            user_id: 1000,
            ..Surroundings::default()
        };
        let sources = Sources {
            flags,
            surroundings,
            ..Sources::default()
        };
        load(&sources).unwrap().shown
    }

    #[test]
    fn what_changed_is_told_apart_by_what_takes_a_restart() {
        let mut in_force = shown(&[(&setting::PRIORITY, "5")]);
        let after = shown(&[
            (&setting::PRIORITY, "5"),
            (&setting::PORT, "4711"),
            (&setting::STORE, "local"),
            (&setting::UPLOAD_LIMIT, "5MB"),
            (&setting::FILTER_PATTERN, "*-internal-*"),
        ]);
        let changes = take_over(&mut in_force, &after);
        assert_eq!(changes.taken, ["store.filter_patterns", "upload_limit"]);
        assert_eq!(changes.left, ["server.port", "store.uri"]);
        let again = take_over(&mut in_force, &after);
        assert!(again.taken.is_empty());
        assert_eq!(again.left, changes.left, "still not in force");
    }

    #[test]
    fn the_same_configuration_changes_nothing() {
        let mut shown = shown(&[(&setting::UPLOAD_LIMIT, "5MB")]);
        let same = shown.clone();
        assert_eq!(take_over(&mut shown, &same), Changes::default());
    }
}
