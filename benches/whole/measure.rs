//! Clocks, processor time and tables.

use std::{fs, time::Duration};

/// Bytes in the megabyte of the tables.
pub const MB: f64 = 1e6;

/// Ticks a second of the times in `/proc/PID/stat`, on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// Seconds of processor time that a running process has used.
pub fn cpu_of(pid: u32) -> f64 {
    let fields = stat(&pid.to_string());
    (fields[11] + fields[12]) / TICKS
}

/// Seconds of processor time that this process' ended children have used.
pub fn cpu_of_children() -> f64 {
    let fields = stat("self");
    (fields[13] + fields[14]) / TICKS
}

/// The numbers behind the command's name; field 3 of proc(5) is the first.
fn stat(process: &str) -> Vec<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    let (_, rest) = text.rsplit_once(')').expect("a command name");
    rest.split_whitespace()
        .map(|word| word.parse().unwrap_or(0.0))
        .collect()
}

/// Resident bytes now.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// Forgets the peak of resident memory.
pub fn reset_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our own process");
}

/// Peak of resident bytes since the last [`reset_peak`].
pub fn peak(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = text.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a figure")
        * 1024
}

/// The middle of what was measured.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a share `q` of the values lies.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Seconds with a unit that suits them.
pub fn seconds(value: f64) -> String {
    match value {
        v if v < 0.001 => format!("{:.0} µs", v * 1e6),
        v if v < 1.0 => format!("{:.1} ms", v * 1e3),
        v => format!("{v:.2} s"),
    }
}

/// One way of doing a thing, measured several times.
#[derive(Default)]
pub struct Series {
    seconds: Vec<f64>,
    cpu: Vec<f64>,
    other_cpu: Vec<f64>,
}

impl Series {
    /// Adds a run and what its process, and the one at the other end, used of the processor.
    pub fn add(&mut self, taken: Duration, cpu: f64, other_cpu: f64) {
        self.seconds.push(taken.as_secs_f64());
        self.cpu.push(cpu);
        self.other_cpu.push(other_cpu);
    }

    /// Median seconds of a run.
    pub fn seconds(&self) -> f64 {
        median(&self.seconds)
    }

    /// Megabytes a second.
    pub fn rate(&self, bytes: u64) -> f64 {
        bytes as f64 / MB / self.seconds()
    }

    /// Processor seconds for each gigabyte.
    pub fn cpu_for_gigabyte(&self, bytes: u64) -> f64 {
        mean(&self.cpu) / (bytes as f64 / 1e9)
    }

    /// The same at the other end.
    pub fn other_cpu_for_gigabyte(&self, bytes: u64) -> f64 {
        mean(&self.other_cpu) / (bytes as f64 / 1e9)
    }

    /// Fastest and slowest run, in megabytes a second.
    pub fn spread(&self, bytes: u64) -> String {
        let rate = |q| bytes as f64 / MB / quantile(&self.seconds, q);
        format!("{:.0}-{:.0}", rate(1.0), rate(0.0))
    }
}

/// Processor time comes in ticks of 10 ms: a mean says more than a median.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Prints a heading and the first two lines of a table.
pub fn table(title: &str, columns: &[&str]) {
    println!("\n### {title}\n");
    println!("| {} |", columns.join(" | "));
    println!("|{}", "---|".repeat(columns.len()));
}

/// Prints a line of a table.
pub fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}
