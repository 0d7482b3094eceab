//! What became of Nix's requests: where narinfos and bytes came from, and how long that took.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::registered;
use crate::report::{BySource, Source};

/// Why a narinfo request was a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss {
    /// Nobody could be asked.
    NoPeers,
    /// All inventories say that nobody has it: no packet was sent.
    NobodyClaims,
    /// Those asked have not got it.
    Absent,
    /// Somebody let the deadline pass, and nobody else has it.
    Deadline,
    /// An answer carried no trusted signature.
    Untrusted,
    /// It is there, but a reference of it can't be had.
    References,
}

impl Miss {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::NoPeers,
        Self::NobodyClaims,
        Self::Absent,
        Self::Deadline,
        Self::Untrusted,
        Self::References,
    ];

    /// Returns the name that stands in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPeers => "no_peers",
            Self::NobodyClaims => "nobody_claims",
            Self::Absent => "absent",
            Self::Deadline => "deadline",
            Self::Untrusted => "untrusted",
            Self::References => "references",
        }
    }

    /// Says it to a person.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::NoPeers => "no peer is connected",
            Self::NobodyClaims => "no peer's inventory has it",
            Self::Absent => "no peer that was asked has it",
            Self::Deadline => "no answer in time, and nobody else has it",
            Self::Untrusted => "an answer carried no trusted signature",
            Self::References => "one of its references can't be had",
        }
    }
}

/// A stage of a substitution, from Nix's request on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A narinfo request that the own store answered.
    OwnStore,
    /// A narinfo request for which others were asked, answered or not.
    Lookup,
    /// A NAR request, until its first byte could be sent.
    FirstByte,
    /// A NAR request, until its last byte was taken.
    Whole,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OwnStore, Self::Lookup, Self::FirstByte, Self::Whole];

    /// Returns the name that stands in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OwnStore => "own_store",
            Self::Lookup => "lookup",
            Self::FirstByte => "first_byte",
            Self::Whole => "whole",
        }
    }
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Every byte is right.
    Verified,
    /// Nobody was left, or nobody read it any more.
    Failed,
    /// The blob was not the NAR.
    Wrong,
}

impl Ending {
    const ALL: [Self; 3] = [Self::Verified, Self::Failed, Self::Wrong];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Failed => "failed",
            Self::Wrong => "wrong",
        }
    }
}

macro_rules! label {
    ($labels:ident { $field:ident: $value:ty }) => {
        impl EncodeLabelValue for $value {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }

        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $labels {
            $field: $value,
        }
    };
}

label!(SourceLabels { source: Source });
label!(MissLabels { reason: Miss });
label!(StageLabels { stage: Stage });
label!(EndingLabels { outcome: Ending });

/// The counters of substitution.
#[derive(Debug)]
pub struct Substitution {
    /// NAR bytes by where they came from: those of peers and caches counted as they arrive, those
    /// of the own store as they are read for a program on this machine.
    pub bytes: BySource<Counter>,
    /// Narinfo requests answered, by whose word it was.
    pub answers: BySource<Counter>,
    /// Lookups that somebody let the deadline of pass.
    pub deadlines: Counter,
    /// Transfers under way.
    pub active: Gauge,
    misses: Family<MissLabels, Counter>,
    stages: Family<StageLabels, Histogram>,
    endings: Family<EndingLabels, Counter>,
}

impl Substitution {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let bytes: Family<SourceLabels, Counter> = registered(
            registry,
            "source_bytes",
            "NAR bytes, by where they came from",
        );
        let answers: Family<SourceLabels, Counter> = registered(
            registry,
            "lookup_answers",
            "Narinfo requests answered, by whose word it was",
        );
        let misses: Family<MissLabels, Counter> = registered(
            registry,
            "lookup_misses",
            "Narinfo requests that nobody answered, by reason",
        );
        let stages = Family::<StageLabels, Histogram>::new_with_constructor(|| {
            // 0.25 ms to 65 s.
            Histogram::new(exponential_buckets(0.000_25, 4.0, 10))
        });
        registry.register(
            "stage_duration_seconds",
            "Time of each stage of a substitution",
            stages.clone(),
        );
        let endings: Family<EndingLabels, Counter> =
            registered(registry, "transfers", "Transfers that ended, by outcome");
        // A series that is there from the start shows its first increase.
        for reason in Miss::ALL {
            drop(misses.get_or_create(&MissLabels { reason }));
        }
        for stage in Stage::ALL {
            drop(stages.get_or_create(&StageLabels { stage }));
        }
        for outcome in Ending::ALL {
            drop(endings.get_or_create(&EndingLabels { outcome }));
        }
        let of = |family: &Family<SourceLabels, Counter>| {
            BySource::from_fn(|source| family.get_or_create(&SourceLabels { source }).clone())
        };
        Self {
            bytes: of(&bytes),
            answers: of(&answers),
            deadlines: registered(
                registry,
                "lookup_deadlines",
                "Lookups of which somebody let the deadline pass",
            ),
            active: registered(registry, "transfers_active", "Transfers under way"),
            misses,
            stages,
            endings,
        }
    }

    /// Counts a narinfo request that nobody answered.
    pub fn count_miss(&self, reason: Miss) {
        self.misses.get_or_create(&MissLabels { reason }).inc();
    }

    /// Returns how many narinfo requests nobody answered, for this reason.
    #[must_use]
    pub fn misses(&self, reason: Miss) -> u64 {
        self.misses.get_or_create(&MissLabels { reason }).get()
    }

    /// Notes how long a stage took.
    pub fn observe(&self, stage: Stage, took: Duration) {
        self.stages
            .get_or_create(&StageLabels { stage })
            .observe(took.as_secs_f64());
    }

    /// Counts a transfer that ended.
    pub fn count_ending(&self, outcome: Ending) {
        self.endings.get_or_create(&EndingLabels { outcome }).inc();
    }

    /// Returns how many transfers ended so.
    #[must_use]
    pub fn endings(&self, outcome: Ending) -> u64 {
        self.endings.get_or_create(&EndingLabels { outcome }).get()
    }
}
