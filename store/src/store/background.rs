//! Hashing what nobody has asked for yet, when the machine has nothing better to do.

use std::{
    collections::{HashSet, VecDeque},
    fs, io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::{Inner, Store};
use crate::{HashError, limits, nix::StorePathHash};

/// How far hashing in the background has come.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackgroundHashing {
    /// Why nothing is hashed now, where that is so.
    pub paused: Option<PauseReason>,
    /// Whether a person paused it, be there anything to hash or not.
    pub asked_to_pause: bool,
    /// Paths that wait, the one under way included.
    pub paths_left: u64,
    /// Bytes of their NARs that are not hashed yet.
    pub bytes_left: u64,
    /// Paths hashed since the start.
    pub paths_done: u64,
    /// Bytes hashed since the start.
    pub bytes_done: u64,
    /// When it will be done at the rate so far.
    pub time_left: Option<Duration>,
}

/// Why nothing is hashed in the background.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PauseReason {
    /// A person said so.
    Asked,
    /// The machine runs on battery.
    Battery,
    /// Somebody waits for other hashes.
    Busy,
}

/// What waits, and how far it is.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes done of the NAR under way.
    current: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(StorePathHash, u64)>,
    queued: HashSet<StorePathHash>,
    asked_to_pause: bool,
    on_battery: bool,
    busy: bool,
    stopping: bool,
    paths_done: u64,
    bytes_done: u64,
    time_spent: Duration,
}

impl Store {
    /// Has NARs hashed in the background, after those that wait already.
    ///
    /// One at a time, at the lowest priority for processor and disk, and not on battery. What is
    /// hashed already is passed over. `paths` have the sizes of their NARs in bytes. **Blocks** for
    /// as long as a look into the index takes.
    pub fn hash_in_background(&self, paths: &[(StorePathHash, u64)]) {
        let path_hashes: Vec<_> = paths.iter().map(|&(path_hash, _)| path_hash).collect();
        let Ok(known) = self.0.index.paths(&path_hashes) else {
            return;
        };
        let paths = paths.iter().zip(known);
        let paths = paths.filter(|(_, known)| known.is_none());
        let mut state = self.0.backlog.state();
        for (&(path_hash, size), _) in paths {
            if state.queue.len() < limits::MAX_BACKLOG && state.queued.insert(path_hash) {
                state.queue.push_back((path_hash, size));
            }
        }
        drop(state);
        self.0.backlog.changed.notify_all();
    }

    /// Pauses hashing in the background, or lets it go on. Hashing on demand goes on.
    ///
    /// The NAR under way is given up, and hashed from its start later.
    pub fn pause_background(&self, pause: bool) {
        self.0.backlog.state().asked_to_pause = pause;
        self.0.backlog.changed.notify_all();
    }

    /// Tells how far hashing in the background is.
    #[must_use]
    pub fn background(&self) -> BackgroundHashing {
        self.0.backlog.report()
    }
}

impl Backlog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }

    fn report(&self) -> BackgroundHashing {
        let state = self.state();
        let current = self.current.load(Ordering::Relaxed);
        let queued: u64 = state.queue.iter().map(|(_, size)| size).sum();
        let (bytes_left, bytes_done) = (queued.saturating_sub(current), state.bytes_done);
        let rate = bytes_done as f64 / state.time_spent.as_secs_f64();
        let time_left = Duration::try_from_secs_f64(bytes_left as f64 / rate).ok();
        BackgroundHashing {
            paused: state.pause_reason().filter(|_| !state.queue.is_empty()),
            asked_to_pause: state.asked_to_pause,
            paths_left: state.queue.len() as u64,
            bytes_left,
            paths_done: state.paths_done,
            bytes_done,
            time_left: time_left.filter(|_| bytes_done > 0),
        }
    }

    /// Waits for the next path; `None` once the store shuts down.
    fn next(&self, look: &dyn Fn(&mut State)) -> Option<(StorePathHash, u64)> {
        let mut state = self.state();
        loop {
            if state.stopping {
                return None;
            }
            if let Some(&next) = state.queue.front() {
                look(&mut state);
                if state.pause_reason().is_none() {
                    return Some(next);
                }
                // What pauses it may pass unheard.
                let waited = self
                    .changed
                    .wait_timeout(state, limits::BACKGROUND_LOOK)
                    .unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
            } else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn must_yield(&self) -> bool {
        let state = self.state();
        state.stopping || state.asked_to_pause
    }

    fn finished(&self, size: u64, took: Duration, hashed: bool) {
        let mut state = self.state();
        if let Some((path_hash, _)) = state.queue.pop_front() {
            state.queued.remove(&path_hash);
        }
        if hashed {
            state.paths_done += 1;
            state.bytes_done += size;
            state.time_spent += took;
        }
    }
}

impl State {
    fn pause_reason(&self) -> Option<PauseReason> {
        if self.asked_to_pause {
            Some(PauseReason::Asked)
        } else if self.on_battery {
            Some(PauseReason::Battery)
        } else if self.busy {
            Some(PauseReason::Busy)
        } else {
            None
        }
    }
}

/// Starts the thread that hashes in the background; it ends with the store.
pub(super) fn start(inner: &Arc<Inner>) {
    let worker = inner.clone();
    let spawned = thread::Builder::new()
        .name("peerix-idle".into())
        .spawn(move || {
            be_idle();
            work(&worker);
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "nothing is hashed in the background");
    }
}

/// The lowest priority there is, for this thread and those it starts; Linux has the priority for
/// the disk follow from it.
fn be_idle() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) =
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle)
    {
        tracing::debug!(?error, "hashing in the background has no lower priority");
    }
}

fn work(inner: &Arc<Inner>) {
    let backlog = &inner.backlog;
    let look = |state: &mut State| {
        state.busy = inner.jobs.is_busy();
        state.on_battery = is_on_battery(&inner.config.power_supplies);
    };
    while let Some((path_hash, size)) = backlog.next(&look) {
        let started = Instant::now();
        let was_known = matches!(inner.index.path(path_hash), Ok(Some(_)));
        let outcome = inner.hash_nar(path_hash, &|done| {
            backlog.current.store(done, Ordering::Relaxed);
            if backlog.must_yield() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(())
        });
        backlog.current.store(0, Ordering::Relaxed);
        if let Err(HashError::Read { .. }) = &outcome
            && backlog.must_yield()
        {
            // Given up on request: it stays the next one.
            continue;
        }
        if let Err(error) = &outcome {
            tracing::debug!(%error, "not hashed in the background");
        }
        backlog.finished(size, started.elapsed(), outcome.is_ok() && !was_known);
    }
}

/// Returns whether a battery is being emptied and no other supply is there, by what the kernel says
/// in `power_supplies` (`/sys/class/power_supply`).
#[must_use]
pub fn is_on_battery(power_supplies: &Path) -> bool {
    let read = |supply: &Path, name: &str| {
        let text = fs::read_to_string(supply.join(name)).unwrap_or_default();
        text.trim().to_owned()
    };
    let mut discharging = false;
    for supply in fs::read_dir(power_supplies).into_iter().flatten().flatten() {
        let supply = supply.path();
        match read(&supply, "type").as_str() {
            // A mouse's battery is one too, and says so.
            "Battery" if read(&supply, "scope") != "Device" => {
                discharging |= read(&supply, "status") == "Discharging";
            }
            "Mains" | "USB" if read(&supply, "online") == "1" => return false,
            _ => {}
        }
    }
    discharging
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

    use super::*;

    #[test]
    fn a_battery_counts_only_while_it_is_emptied() {
        let lab = tempfile::tempdir().unwrap();
        assert!(!is_on_battery(&lab.path().join("none")));
        let put = |name: &str, values: &[(&str, &str)]| {
            let supply = lab.path().join(name);
            fs::create_dir_all(&supply).unwrap();
            for (file, value) in values {
                fs::write(supply.join(file), format!("{value}\n")).unwrap();
            }
        };
        let mouse = [
            ("type", "Battery"),
            ("scope", "Device"),
            ("status", "Discharging"),
        ];
        put("mouse", &mouse);
        put("AC", &[("type", "Mains"), ("online", "0")]);
        assert!(!is_on_battery(lab.path()));
        put("BAT0", &[("type", "Battery"), ("status", "Charging")]);
        assert!(!is_on_battery(lab.path()));
        put("BAT0", &[("status", "Discharging")]);
        assert!(is_on_battery(lab.path()));
        put("AC", &[("online", "1")]);
        assert!(!is_on_battery(lab.path()));
    }
}
