//! Progress bars, on terminals only.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::control::Progress;

const BYTES: &str =
    "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
const SCAN: &str = "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}";
const COUNT: &str = "{spinner} {msg} {human_pos}";

/// How often a bar moves without news.
const TICK: Duration = Duration::from_millis(200);

/// A bar of bytes, hidden where standard error is no terminal.
pub(super) fn bytes(message: &str, total: u64) -> ProgressBar {
    bar(BYTES, message, Some(total))
}

fn bar(template: &str, message: &str, total: Option<u64>) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(total, target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(message.to_owned());
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// Shows how far the daemon is.
#[derive(Debug, Default)]
pub(super) struct Steps(Option<ProgressBar>);

impl Steps {
    pub(super) fn show(&mut self, step: &Progress) {
        match step {
            Progress::Hashing {
                paths_done,
                paths_total,
                bytes_done,
                bytes_total,
            } => {
                let bar = self.0.get_or_insert_with(|| bytes("hashing", *bytes_total));
                bar.set_message(format!("hashed {paths_done} of {paths_total} paths"));
                bar.set_length(*bytes_total);
                bar.set_position(*bytes_done);
            }
            Progress::Verifying {
                blobs_done,
                blobs_total,
                bytes_done,
                bytes_total,
            } => {
                let bar = self.0.get_or_insert_with(|| bytes("reading", *bytes_total));
                bar.set_message(format!("read {blobs_done} of {blobs_total} NARs"));
                bar.set_length(*bytes_total);
                bar.set_position(*bytes_done);
            }
            Progress::Trusted => {}
            Progress::Scanning { paths, expected } => {
                let template = if expected.is_some() { SCAN } else { COUNT };
                let bar = self
                    .0
                    .get_or_insert_with(|| bar(template, "paths", *expected));
                if let Some(expected) = expected {
                    bar.set_length(*expected);
                }
                bar.set_position(*paths);
            }
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
