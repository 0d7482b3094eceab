//! A disk that is soon full.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// A small file system of its own, gone with this.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Returns `None` where this process may not mount.
    pub fn new(megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all room that is left.
    pub fn fill(&self) {
        let file = fs::File::create(self.path().join("fill")).expect("a file");
        let chunk = [1; 65_536];
        while std::io::Write::write(&mut &file, &chunk).is_ok_and(|written| written > 0) {}
    }

    /// Gives it back.
    pub fn clear(&self) {
        fs::remove_file(self.path().join("fill")).expect("a file to remove");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
