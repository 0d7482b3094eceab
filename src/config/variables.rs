//! `PEERIX_*` variables.

use super::{
    ConfigError, Given, Layer, Origin, Surroundings,
    setting::{self, Kind},
};

/// Variables that are ours and no setting.
const OTHERS: &[&str] = &["PEERIX_CONFIG", "PEERIX_COMMIT"];

/// A name at most this many edits from a setting's is taken for a misspelling of it.
const MISSPELLING: usize = 2;

/// The layer of the variables, and the names that were passed over.
///
/// Lists are separated by white space, as in `nix.conf`. An empty variable is as good as none.
///
/// # Errors
/// A name that is nearly a setting's: it would be passed over otherwise, and its author would
/// never know. Names further off may be anybody's.
pub(super) fn layer(surroundings: &Surroundings) -> Result<(Layer, Vec<String>), ConfigError> {
    let mut layer = Layer::default();
    let mut ignored = Vec::new();
    for (name, value) in surroundings
        .variables
        .iter()
        .filter(|(name, _)| name.starts_with("PEERIX_"))
    {
        if OTHERS.contains(&name.as_str()) {
            continue;
        }
        match setting::ALL
            .iter()
            .find(|setting| setting.variable() == *name)
        {
            Some(_) if value.is_empty() => {}
            Some(setting) => {
                let values = match setting.kind {
                    Kind::List => value.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![value.clone()],
                };
                layer.set(
                    setting,
                    Given {
                        values,
                        origin: Origin::Variable(name.clone()),
                    },
                );
            }
            None => {
                let known = setting::ALL.iter().map(|setting| setting.variable());
                let nearest = known
                    .map(|known| (strsim::damerau_levenshtein(name, &known), known))
                    .min();
                match nearest {
                    Some((distance, known)) if distance <= MISSPELLING => {
                        return Err(ConfigError::Unknown {
                            place: "environment".to_owned(),
                            what: "variable",
                            name: name.clone(),
                            nearest: format!("`{known}`"),
                        });
                    }
                    _ => ignored.push(name.clone()),
                }
            }
        }
    }
    Ok((layer, ignored))
}
