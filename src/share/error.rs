//! Why nothing was shared, or not taken back.

use peerix_store::nix::StorePath;

use super::{gc_root::GcRootError, tokens::TokensError};
use crate::control::OperationError;

/// Why nothing was shared, or not taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The path is neither valid in Nix's store nor held as a NAR.
    #[error("{path} is not valid here: build or fetch it first (`nix-store -r {path}`)")]
    NotValid {
        /// The absolute store path.
        path: String,
    },
    /// Closure members that no public cache signed, and nobody said yes.
    #[error("{} paths of the closure are in no public cache", paths.len())]
    Unconfirmed {
        /// The absolute store paths.
        paths: Vec<String>,
        /// Whether a key has to be made to sign something that nobody has signed.
        makes_key: bool,
    },
    /// The tokens of private shares can't be kept.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A key for what nobody has signed can't be made.
    #[error("no key can be made to sign what nobody has signed: {reason}")]
    Key {
        /// What happened.
        reason: String,
    },
    /// The files are not what Nix's database says they are.
    #[error(
        "{path} was changed since Nix made it (its NAR hash is wrong): run `nix-store --repair-path {path}`"
    )]
    WrongNar {
        /// The absolute store path.
        path: String,
    },
    /// The path was not shared.
    #[error("{path} is not shared: `peerix shared` lists what is")]
    NotShared {
        /// The absolute store path.
        path: String,
    },
    /// Nix's garbage collector can't be told to keep the path.
    #[error(transparent)]
    GcRoot(#[from] GcRootError),
    /// The store failed.
    #[error("{path}: {source}")]
    Store {
        /// The absolute store path.
        path: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<ShareError> for OperationError {
    fn from(error: ShareError) -> Self {
        let message = error.to_string();
        match error {
            ShareError::Unconfirmed { paths, makes_key } => {
                OperationError::Unconfirmed { paths, makes_key }
            }
            ShareError::NotValid { .. }
            | ShareError::WrongNar { .. }
            | ShareError::NotShared { .. } => OperationError::Refused { message },
            ShareError::GcRoot(_)
            | ShareError::Store { .. }
            | ShareError::Tokens(_)
            | ShareError::Key { .. } => OperationError::Failed { message },
        }
    }
}

impl From<TokensError> for OperationError {
    fn from(error: TokensError) -> Self {
        OperationError::Failed {
            message: error.to_string(),
        }
    }
}

pub(super) fn store_error<E: std::error::Error + Send + Sync + 'static>(
    path: &StorePath,
) -> impl FnOnce(E) -> ShareError {
    let path = path.to_absolute_path();
    move |source| ShareError::Store {
        path,
        source: Box::new(source),
    }
}
