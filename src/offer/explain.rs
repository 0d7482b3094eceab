//! The policy's verdict on one path, with its reason.

use peerix_store::{Store, nix::PathInfo};

use super::{Filter, OfferPolicy};
use crate::why::Verdict;

impl OfferPolicy {
    /// Whether any peer may have this path, and why; the same decision as
    /// [`OfferPolicy::is_offered`].
    #[must_use]
    pub fn explain(&self, store: &Store, info: &PathInfo) -> Verdict {
        let path_hash = info.path_hash();
        if self.is_shared_openly(store, path_hash) {
            return Verdict::yes("it was shared by hand, or is needed by what was");
        }
        let rules = self.rules();
        if rules.filter == Filter::Everything {
            return Verdict::yes("every path of the store is offered (no_filter)");
        }
        if rules.excluded.match_name_of(&info.store_path) {
            return Verdict::no(
                "its name is among those not to offer (filter_patterns, or those of filter_mode = \"rules\")",
            );
        }
        if self.is_public(info) {
            return Verdict::yes("a public cache has it");
        }
        if rules.filter == Filter::Vouched && self.is_vouched_for(info) {
            return Verdict::yes("it is signed by a trusted key, or proved by its content address");
        }
        if self.private().count_of(path_hash) > 0 {
            return Verdict::no("it is shared in private: peers need the ticket's token");
        }
        if self.is_to_be_asked(info) {
            return Verdict::no(
                "nobody signed it, and the upstream cache has not been asked for it yet",
            );
        }
        Verdict::no(match rules.filter {
            Filter::Vouched => {
                "neither a public cache nor a trusted key vouches for it; `peerix share` offers it by hand"
            }
            _ => {
                "no public cache has it (filter_mode = \"nixpkgs\"); `peerix share` offers it by hand"
            }
        })
    }
}
