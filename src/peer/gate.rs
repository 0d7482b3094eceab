//! Whether anything is uploaded now: quotas, pauses, metered connections, batteries.
//!
//! The rules are functions of what is known and the date; [`crate::machine`] watches the machine,
//! and the daemon keeps what was used over restarts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::unix_seconds;

/// When to upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadWhen {
    /// At any time.
    Always,
    /// Not on metered connections and not on battery.
    Unmetered,
    /// At no time.
    Never,
}

/// What a person wants of uploads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadRules {
    /// When to upload; where nothing is said: always, but not on networks marked public.
    pub when: Option<UploadWhen>,
    /// Bytes a day.
    pub per_day: Option<u64>,
    /// Bytes a month.
    pub per_month: Option<u64>,
}

/// What is known of the machine now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The connection costs by its bytes.
    pub is_metered: bool,
    /// A battery is being emptied.
    pub is_on_battery: bool,
    /// The network was marked as one of strangers.
    pub is_public_network: bool,
}

/// Why nothing is uploaded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UploadsClosed {
    /// Somebody said so.
    #[error("paused")]
    Paused,
    /// The configuration says so.
    #[error("never (upload_when)")]
    Never,
    /// The connection is metered.
    #[error("the connection is metered")]
    Metered,
    /// The machine runs on battery.
    #[error("on battery")]
    Battery,
    /// The network is one of strangers.
    #[error("the network is marked public")]
    PublicNetwork,
    /// The day's quota is used up.
    #[error("the day's quota is used up")]
    DayQuota,
    /// The month's quota is used up.
    #[error("the month's quota is used up")]
    MonthQuota,
}

/// What was uploaded, and what was asked for, as it is kept over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    /// The day that `day_bytes` were uploaded on.
    day: Option<Date>,
    day_bytes: u64,
    month_bytes: u64,
    /// The end of a pause, in seconds since 1970; the largest number for one without an end.
    paused_until: Option<u64>,
}

impl UploadRecord {
    /// Begins a new day, and a new month with it. A clock that went back begins nothing.
    fn begin(&mut self, today: Date) {
        let Some(day) = self.day else {
            self.day = Some(today);
            return;
        };
        if (today.year(), today.month()) > (day.year(), day.month()) {
            self.month_bytes = 0;
        }
        if today > day {
            self.day_bytes = 0;
            self.day = Some(today);
        }
    }

    fn add(&mut self, bytes: u64) {
        self.day_bytes = self.day_bytes.saturating_add(bytes);
        self.month_bytes = self.month_bytes.saturating_add(bytes);
    }
}

/// Decides whether anything is uploaded.
fn decide(
    rules: &UploadRules,
    machine: &Machine,
    record: &UploadRecord,
    unix_now: u64,
) -> Result<(), UploadsClosed> {
    let sparing = rules.when == Some(UploadWhen::Unmetered);
    let closed = [
        (rules.when == Some(UploadWhen::Never), UploadsClosed::Never),
        (
            record.paused_until.is_some_and(|until| until > unix_now),
            UploadsClosed::Paused,
        ),
        (sparing && machine.is_metered, UploadsClosed::Metered),
        (sparing && machine.is_on_battery, UploadsClosed::Battery),
        (
            machine.is_public_network && rules.when != Some(UploadWhen::Always),
            UploadsClosed::PublicNetwork,
        ),
    ];
    match closed.iter().find(|(is_closed, _)| *is_closed) {
        Some((_, reason)) => Err(*reason),
        None => within_quotas(rules, record),
    }
}

/// Decides whether the quotas leave anything to upload.
fn within_quotas(rules: &UploadRules, record: &UploadRecord) -> Result<(), UploadsClosed> {
    let is_over = |bytes: u64, quota: Option<u64>| quota.is_some_and(|quota| bytes >= quota);
    if is_over(record.day_bytes, rules.per_day) {
        return Err(UploadsClosed::DayQuota);
    }
    if is_over(record.month_bytes, rules.per_month) {
        return Err(UploadsClosed::MonthQuota);
    }
    Ok(())
}

/// The gate that all uploads pass. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UploadGate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    among_strangers: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    rules: UploadRules,
    machine: Machine,
    record: UploadRecord,
    is_changed: bool,
}

impl UploadGate {
    /// Makes a gate that goes on where `record` left off. Where metered connections matter, the
    /// connection counts as one until the machine was looked at.
    pub fn new(rules: UploadRules, record: UploadRecord) -> Self {
        let machine = Machine {
            is_metered: rules.when == Some(UploadWhen::Unmetered),
            ..Machine::default()
        };
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                rules,
                machine,
                record,
                is_changed: false,
            }),
            among_strangers: watch::Sender::new(false),
        }))
    }

    /// Whether the machine is on a network of strangers and nobody said that it should upload
    /// nevertheless: then it does not look for peers there either.
    pub fn among_strangers(&self) -> watch::Receiver<bool> {
        self.0.among_strangers.subscribe()
    }

    /// Returns whether anything may be uploaded now.
    ///
    /// # Errors
    /// [`UploadsClosed`], which says why not.
    pub fn check(&self) -> Result<(), UploadsClosed> {
        let state = self.state();
        decide(&state.rules, &state.machine, &state.record, unix_seconds())
    }

    /// Counts bytes that are about to be uploaded.
    ///
    /// # Errors
    /// [`UploadsClosed`]: they are not to be, and don't count.
    pub fn pass(&self, bytes: u64) -> Result<(), UploadsClosed> {
        let mut state = self.state();
        decide(&state.rules, &state.machine, &state.record, unix_seconds())?;
        state.record.add(bytes);
        state.is_changed = true;
        Ok(())
    }

    /// Counts bytes that only tell what is here: they pass while uploads pause, within the quotas.
    ///
    /// # Errors
    /// [`UploadsClosed`]: a quota is used up.
    pub fn pass_told(&self, bytes: u64) -> Result<(), UploadsClosed> {
        let mut state = self.state();
        within_quotas(&state.rules, &state.record)?;
        state.record.add(bytes);
        state.is_changed = true;
        Ok(())
    }

    /// Says what is known of the machine now, and what day it is there.
    pub fn observe(&self, machine: Machine, today: Date) {
        let mut state = self.state();
        state.machine = machine;
        let before = state.record;
        state.record.begin(today);
        state.is_changed |= state.record != before;
        let when = state.rules.when;
        drop(state);
        self.tell_strangers(machine, when);
    }

    /// Sets other rules from now on.
    pub fn replace_rules(&self, rules: UploadRules) {
        let mut state = self.state();
        state.rules = rules;
        let machine = state.machine;
        drop(state);
        self.tell_strangers(machine, rules.when);
    }

    fn tell_strangers(&self, machine: Machine, when: Option<UploadWhen>) {
        let is_among = machine.is_public_network && when != Some(UploadWhen::Always);
        self.0.among_strangers.send_if_modified(|known| {
            let is_new = *known != is_among;
            *known = is_among;
            is_new
        });
    }

    /// What was last said of the machine.
    pub fn machine(&self) -> Machine {
        self.state().machine
    }

    /// Uploads nothing for so many seconds, or until somebody resumes.
    pub fn pause(&self, seconds: Option<u64>) {
        let until = seconds.map_or(u64::MAX, |seconds| unix_seconds().saturating_add(seconds));
        self.set_paused_until(Some(until));
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.set_paused_until(None);
    }

    fn set_paused_until(&self, until: Option<u64>) {
        let mut state = self.state();
        state.record.paused_until = until;
        state.is_changed = true;
    }

    /// What is to be kept over restarts, if it changed since it was last asked for.
    pub fn changed_record(&self) -> Option<UploadRecord> {
        let mut state = self.state();
        std::mem::take(&mut state.is_changed).then_some(state.record)
    }

    /// Says that a record could not be kept: it is still to be.
    pub fn not_kept(&self) {
        self.state().is_changed = true;
    }

    /// What people are told.
    pub fn describe(&self) -> serde_json::Value {
        let check = self.check();
        let state = self.state();
        let paused_until = state
            .record
            .paused_until
            .filter(|until| *until > unix_seconds() && *until != u64::MAX);
        serde_json::json!({
            "closed": check.err().map(|reason| reason.to_string()),
            "paused_until": paused_until,
            "today_bytes": state.record.day_bytes,
            "month_bytes": state.record.month_bytes,
            "day_quota_bytes": state.rules.per_day,
            "month_quota_bytes": state.rules.per_month,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const OPEN: Machine = Machine {
        is_metered: false,
        is_on_battery: false,
        is_public_network: false,
    };

    #[test]
    fn quotas_begin_anew_each_day_and_month() {
        let rules = UploadRules {
            per_day: Some(100),
            per_month: Some(250),
            ..UploadRules::default()
        };
        let gate = UploadGate::new(rules, UploadRecord::default());
        gate.observe(OPEN, date(2026, 1, 29));
        assert_eq!(gate.pass(100), Ok(()));
        assert_eq!(gate.pass(1), Err(UploadsClosed::DayQuota));
        gate.observe(OPEN, date(2026, 1, 30));
        assert_eq!(gate.pass(100), Ok(()));
        gate.observe(OPEN, date(2026, 1, 31));
        assert_eq!(gate.pass(60), Ok(()));
        assert_eq!(gate.check(), Err(UploadsClosed::MonthQuota));
        // A clock that goes back gives nothing back.
        gate.observe(OPEN, date(2026, 1, 1));
        assert_eq!(gate.check(), Err(UploadsClosed::MonthQuota));
        gate.observe(OPEN, date(2026, 2, 1));
        assert_eq!(gate.check(), Ok(()));
    }

    #[test]
    fn what_was_used_is_known_after_a_restart() {
        let rules = UploadRules {
            per_day: Some(100),
            ..UploadRules::default()
        };
        let gate = UploadGate::new(rules, UploadRecord::default());
        gate.observe(OPEN, date(2026, 3, 1));
        gate.pass(100).unwrap();
        let kept = serde_json::to_string(&gate.changed_record().unwrap()).unwrap();
        assert_eq!(gate.changed_record(), None);
        let gate = UploadGate::new(rules, serde_json::from_str(&kept).unwrap());
        gate.observe(OPEN, date(2026, 3, 1));
        assert_eq!(gate.check(), Err(UploadsClosed::DayQuota));
    }

    #[test]
    fn a_pause_ends_by_itself_or_when_asked() {
        let gate = UploadGate::new(UploadRules::default(), UploadRecord::default());
        gate.pause(None);
        assert_eq!(gate.check(), Err(UploadsClosed::Paused));
        gate.resume();
        assert_eq!(gate.check(), Ok(()));
        gate.pause(Some(3600));
        assert_eq!(gate.check(), Err(UploadsClosed::Paused));
        gate.pause(Some(0));
        assert_eq!(gate.check(), Ok(()));
    }

    #[test]
    fn what_only_tells_what_is_here_passes_in_a_pause_and_counts_towards_the_quotas() {
        let rules = UploadRules {
            per_day: Some(100),
            when: Some(UploadWhen::Never),
            ..UploadRules::default()
        };
        let gate = UploadGate::new(rules, UploadRecord::default());
        gate.observe(OPEN, date(2026, 4, 1));
        gate.pause(None);
        assert_eq!(gate.pass(1), Err(UploadsClosed::Never));
        assert_eq!(gate.pass_told(100), Ok(()));
        assert_eq!(gate.pass_told(1), Err(UploadsClosed::DayQuota));
    }

    #[test]
    fn when_to_upload_is_what_was_asked_for() {
        let metered = Machine {
            is_metered: true,
            ..OPEN
        };
        let battery = Machine {
            is_on_battery: true,
            ..OPEN
        };
        let strange = Machine {
            is_public_network: true,
            ..OPEN
        };
        let when = |when, machine: Machine| {
            let rules = UploadRules {
                when,
                ..UploadRules::default()
            };
            decide(&rules, &machine, &UploadRecord::default(), 0)
        };
        use UploadWhen::{Always, Never, Unmetered};
        for machine in [OPEN, metered, battery] {
            assert_eq!(when(None, machine), Ok(()));
        }
        for machine in [OPEN, metered, battery, strange] {
            assert_eq!(when(Some(Always), machine), Ok(()));
            assert_eq!(when(Some(Never), machine), Err(UploadsClosed::Never));
        }
        assert_eq!(when(None, strange), Err(UploadsClosed::PublicNetwork));
        assert_eq!(when(Some(Unmetered), OPEN), Ok(()));
        assert_eq!(when(Some(Unmetered), metered), Err(UploadsClosed::Metered));
        assert_eq!(when(Some(Unmetered), battery), Err(UploadsClosed::Battery));
        assert_eq!(
            when(Some(Unmetered), strange),
            Err(UploadsClosed::PublicNetwork)
        );
    }
}
