//! Kills and power cuts at any point of a download's life.
//!
//! This binary runs itself as the process that is killed: [`child`] receives blobs into a store
//! and says what it did, one line each, as soon as it can be relied on.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod support;

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use peerix_store::{Config, NixStore, Store};
use support::foreign::{Foreign, chunks};

const STATE_DIR: &str = "PEERIX_CRASH_STATE_DIR";
const MIB: u64 = 1024 * 1024;
/// Bytes written at once, as a transfer does.
const STEP: u64 = 256 * 1024;

fn config(state_dir: &Path) -> Config {
    // There is no Nix database there, so that everything is kept durably.
    let root = Some(state_dir.join("none"));
    Config::new(state_dir, NixStore::Local { root })
}

/// What the child receives: one that is cut off, large ones, and some for the index.
fn blobs() -> Vec<Foreign> {
    let sizes = [9_000_000, 20_000, 6_000_000, 200_000, 20_000, 12_000_000];
    let blobs = sizes.iter().zip(201..);
    blobs
        .map(|(&size, id)| Foreign::named("foreign", id, size))
        .collect()
}

fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{words}").unwrap();
    out.flush().unwrap();
}

/// Not a test: what the others start and kill.
#[test]
fn child() {
    let Some(state_dir) = env::var_os(STATE_DIR).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(config(&state_dir)).await.unwrap();
        say("opened");
        for (index, foreign) in blobs().iter().enumerate() {
            let begun = store
                .begin_download(foreign.info.clone(), foreign.blob)
                .await;
            let download = begun.unwrap();
            let size = foreign.info.nar_size;
            let mut at = 0;
            while at < size {
                let end = (at + STEP).min(size);
                let (parents, leaves) = foreign.items(&chunks(at..end));
                download.write(&parents, &leaves).unwrap();
                say(&format!("written {index} {end}"));
                at = end;
                // The first one is left as a part, and so is the last.
                if index == 0 && at > 4 * MIB || index == 5 && at > 8 * MIB {
                    break;
                }
            }
            if at < size {
                continue;
            }
            download.verify().await.unwrap();
            download.commit().await.unwrap();
            say(&format!("kept {index}"));
        }
        say("done");
        // Until the power goes, or in peace where nothing killed it.
        if env::var_os("PEERIX_CRASH_WAIT").is_some() {
            std::future::pending::<()>().await;
        }
    });
}

fn spawn_child(mut command: Command, state_dir: &Path) -> Child {
    command
        .args(["--exact", "child", "--nocapture"])
        .env(STATE_DIR, state_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the child said before it went.
#[derive(Debug, Default)]
struct Said {
    kept: Vec<usize>,
    written: [u64; 6],
    done: bool,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("kept"), Some(index), _) => self.kept.push(index.parse().unwrap()),
            (Some("written"), Some(index), Some(end)) => {
                self.written[index.parse::<usize>().unwrap()] = end.parse().unwrap();
            }
            (Some("done"), ..) => self.done = true,
            _ => {}
        }
    }
}

/// Checks the state that a crash left: everything kept is there and right, `lost` bytes of what
/// was written at most are not, and nothing is left over.
fn check(state_dir: &Path, said: &Said, lost: u64, what: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let started = Instant::now();
        let store = Store::open(config(state_dir)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{what}");
        assert_eq!(fs::read_dir(state_dir.join("tmp")).unwrap().count(), 0);
        for (index, foreign) in blobs().iter().enumerate() {
            if let Ok(blob) = store.open_blob(foreign.blob).await
                && blob.held().is_all()
            {
                let mut read = Vec::new();
                let taken = blob.read_verified(0..blob.size(), &mut |piece| {
                    read.extend_from_slice(&piece);
                    Ok(())
                });
                taken.unwrap_or_else(|error| panic!("{what}: blob {index}: {error}"));
                assert!(read == foreign.nar, "{what}: blob {index}");
                continue;
            }
            assert!(!said.kept.contains(&index), "{what}: {index} was kept");
            let begun = store
                .begin_download(foreign.info.clone(), foreign.blob)
                .await;
            let download = begun.unwrap();
            let held: u64 = download
                .held()
                .boundaries()
                .chunks(2)
                .map(|range| {
                    range
                        .get(1)
                        .map_or(foreign.info.nar_size, |end| end.to_bytes())
                        - range[0].to_bytes()
                })
                .sum();
            assert!(
                held + lost >= said.written[index],
                "{what}: {held} of {} of blob {index}",
                said.written[index]
            );
            let (parents, leaves) = foreign.items(&download.missing());
            download.write(&parents, &leaves).unwrap();
            download.verify().await.unwrap();
            download.commit().await.unwrap();
        }
        let mut names = 0;
        for entry in fs::read_dir(state_dir.join("blobs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = blobs().iter().any(|f| name.starts_with(&f.blob.to_hex()));
            assert!(known, "{what}: {name} is left over");
            names += 1;
        }
        assert!(names <= 2 * 4, "{what}: {names} files");
        store.shutdown().await;
    });
}

fn this_binary() -> PathBuf {
    env::current_exe().unwrap()
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// The seed of this run's samples: `PEERIX_SEED`, or a fixed one.
fn seed() -> u64 {
    env::var("PEERIX_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// How many samples to take: `PEERIX_SAMPLES`, or few.
fn samples(few: u64) -> u64 {
    env::var("PEERIX_SAMPLES").map_or(few, |samples| samples.parse().unwrap())
}

fn random(seed: u64, index: u64, below: u64) -> u64 {
    let hash = blake3::hash(&[seed.to_le_bytes(), index.to_le_bytes()].concat());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % below
}

/// FAULTS D1: killed at the Nth call of each kind that changes a file.
#[test]
fn a_kill_at_any_change_of_a_file_loses_nothing() {
    sweep("signal=KILL", samples(14));
}

/// FAULTS D3: each call of a kind fails from the Nth on, as on a full disk.
#[test]
fn a_disk_that_is_full_from_any_call_on_loses_nothing() {
    sweep("error=ENOSPC", samples(7));
}

/// FAULTS D4: the Nth call of each kind fails, and those after it.
#[test]
fn a_disk_that_fails_from_any_call_on_loses_nothing() {
    sweep("error=EIO", samples(7));
}

fn sweep(fault: &str, samples: u64) {
    if !has("strace") {
        eprintln!("skipped: this needs strace");
        return;
    }
    const CALLS: [(&str, u64); 7] = [
        ("pwritev", 120),
        ("pwrite64", 150),
        ("write", 80),
        ("fdatasync,fsync", 40),
        ("ftruncate", 8),
        ("openat", 90),
        ("unlink", 4),
    ];
    let is_kill = fault.starts_with("signal");
    let mut hit = 0;
    for sample in 0..samples {
        let (call, most) = CALLS[(sample % CALLS.len() as u64) as usize];
        let nth = 1 + random(seed(), sample, most);
        // A failing `openat` would keep the program itself from starting.
        let call = if is_kill || call != "openat" {
            call
        } else {
            "ftruncate"
        };
        let what = format!("{fault} at {call} {nth}");
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={call}"))
            .arg("-e")
            .arg(format!(
                "inject={call}:{fault}:when={nth}{}",
                if is_kill { "" } else { "+" }
            ))
            .arg(this_binary());
        let mut child = spawn_child(command, &state_dir);
        let mut said = Said::default();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            said.hear(&line.unwrap());
        }
        child.wait().unwrap();
        hit += u64::from(!said.done);
        check(&state_dir, &said, 4 * MIB, &what);
    }
    assert!(hit > 0, "{fault} hit nothing");
}

/// A file system of its own, whose power can be cut.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Self { dir };
        fs::create_dir(disk.mount_point()).unwrap();
        fs::File::create(disk.image())
            .unwrap()
            .set_len(256 * MIB)
            .unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.image()));
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn mount(&self) {
        let mut mount = Command::new("mount");
        run(mount
            .args(["-o", "loop"])
            .arg(self.image())
            .arg(self.mount_point()));
    }

    fn umount(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut umount = Command::new("umount");
            let status = umount
                .arg(self.mount_point())
                .stderr(Stdio::null())
                .status();
            if status.unwrap().success() {
                return;
            }
            assert!(Instant::now() < deadline, "the disk stays in use");
            std::thread::yield_now();
        }
    }

    /// ext4's shutdown without flushing the log: what was not synced is gone.
    fn cut(&self) {
        const CUT: &str = "my $how = pack('I', 2); open(D, '<', $ARGV[0]) or die; \
                           ioctl(D, 0x8004587d, $how) or die \"$!\"";
        run(Command::new("perl")
            .args(["-e", CUT])
            .arg(self.mount_point()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let _ = umount
            .arg("-l")
            .arg(self.mount_point())
            .stderr(Stdio::null())
            .status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn can_mount() -> bool {
    rustix::process::geteuid().is_root()
        && Path::new("/dev/loop-control").exists()
        && has("mkfs.ext4")
        && has("perl")
}

/// FAULTS D2: the power goes at a random moment.
#[test]
fn a_power_cut_at_any_moment_leaves_nothing_wrong() {
    if !can_mount() {
        eprintln!("skipped: this needs root, loop devices, mkfs.ext4 and perl");
        return;
    }
    for sample in 0..samples(3) {
        let disk = Disk::new();
        let state_dir = disk.mount_point().join("state");
        let mut command = Command::new(this_binary());
        command.env("PEERIX_CRASH_WAIT", "1");
        let mut child = spawn_child(command, &state_dir);
        let mut said = Said::default();
        // So many lines, then the cut.
        let lines = 1 + random(seed(), 1000 + sample, 110);
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in (&mut output).take(lines as usize) {
            said.hear(&line.unwrap());
            if said.done {
                break;
            }
        }
        disk.cut();
        child.kill().unwrap();
        child.wait().unwrap();
        disk.umount();
        disk.mount();
        // All of it is younger than a second.
        check(
            &state_dir,
            &said,
            64 * MIB,
            &format!("cut after {lines} lines"),
        );
        disk.umount();
    }
}
