//! How many lines a second are logged, whatever happens.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Most lines in a second.
pub(super) const LINES: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// Counts lines.
#[derive(Debug, Default)]
pub(super) struct Pace {
    window: Mutex<Window>,
    is_over: Notify,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Window {
    /// Takes one line at `now`; false if it is one too many.
    fn take(&mut self, now: Instant) -> bool {
        let is_past = self
            .began
            .is_none_or(|began| now.saturating_duration_since(began) >= SECOND);
        if is_past {
            (self.began, self.lines) = (Some(now), 0);
        }
        let fits = self.lines < LINES;
        match fits {
            true => self.lines += 1,
            false => self.left_out += 1,
        }
        fits
    }
}

impl Pace {
    fn take(&self) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = window.take(Instant::now());
        drop(window);
        if !fits {
            self.is_over.notify_one();
        }
        fits
    }

    /// Waits until lines were left out and their second is over; returns how many they were.
    pub(super) async fn left_out(&self) -> u64 {
        loop {
            self.is_over.notified().await;
            tokio::time::sleep(SECOND).await;
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            let left_out = std::mem::take(&mut window.left_out);
            if left_out > 0 {
                return left_out;
            }
        }
    }
}

/// Lets a line pass as long as there are not too many.
#[derive(Clone, Debug)]
pub(super) struct Paced(pub(super) Arc<Pace>);

impl<S: Subscriber> Filter<S> for Paced {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, _: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_a_second_is_counted_and_the_next_second_begins_anew() {
        let mut window = Window::default();
        let start = Instant::now();
        let taken = (0..500).filter(|_| window.take(start)).count();
        assert_eq!(taken as u32, LINES);
        assert_eq!(window.left_out, 400);
        assert!(!window.take(start + SECOND / 2));
        assert!(window.take(start + SECOND));
    }
}
