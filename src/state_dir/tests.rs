//! Whose a state directory is, and who holds it.

use super::*;

fn lab() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/state");
    (directory, path)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_new_directory_is_private_and_keeps_its_identity() {
    let (_lab, path) = lab();
    let state = StateDir::open(&path).unwrap();
    let key = state.secret_key().unwrap();
    assert_eq!((mode(&path), mode(&path.join(SECRET_KEY))), (0o700, 0o600));
    assert_eq!(fs::read(path.join(SECRET_KEY)).unwrap(), key.to_bytes());
    drop(state);
    assert_eq!(
        StateDir::open(&path)
            .unwrap()
            .secret_key()
            .unwrap()
            .to_bytes(),
        key.to_bytes()
    );
}

#[test]
fn a_key_of_another_length_is_named_and_left_alone() {
    let (_lab, path) = lab();
    let state = StateDir::open(&path).unwrap();
    for length in [0, 31, 33] {
        fs::write(path.join(SECRET_KEY), vec![1; length]).unwrap();
        let error = state.secret_key().unwrap_err().to_string();
        assert!(
            error.contains(&format!("holds {length} bytes where a key has 32")),
            "{error}"
        );
        assert_eq!(fs::read(path.join(SECRET_KEY)).unwrap(), vec![1; length]);
    }
}

#[test]
fn a_key_that_others_can_read_is_closed_to_them() {
    let (_lab, path) = lab();
    let state = StateDir::open(&path).unwrap();
    state.secret_key().unwrap();
    fs::set_permissions(path.join(SECRET_KEY), fs::Permissions::from_mode(0o644)).unwrap();
    state.secret_key().unwrap();
    assert_eq!(mode(&path.join(SECRET_KEY)), 0o600);
}

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_was() {
    let (lab, path) = lab();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("thesis.txt"), "x").unwrap();
    let error = StateDir::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("not a peerix state directory (it holds `thesis.txt`)"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    let file = lab.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(
        StateDir::open(&file),
        Err(StateDirError::NotADirectory { .. })
    ));
    assert!(matches!(
        StateDir::open(&file.join("below")),
        Err(StateDirError::NotADirectory { .. })
    ));
}

#[test]
fn a_state_directory_of_the_older_program_is_adopted_with_its_identity() {
    let (_lab, path) = lab();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(SECRET_KEY), [5; 32]).unwrap();
    fs::write(path.join("stats.json"), "{}").unwrap();
    let state = StateDir::open(&path).unwrap();
    assert_eq!(state.secret_key().unwrap().to_bytes(), [5; 32]);
    drop(state);
    StateDir::open(&path).unwrap();
}

#[test]
fn a_newer_or_foreign_marker_is_refused() {
    let (_lab, path) = lab();
    fs::create_dir_all(&path).unwrap();
    fs::write(
        path.join(MARKER),
        "This is a state directory of peerix, version 2.\n",
    )
    .unwrap();
    assert!(matches!(
        StateDir::open(&path),
        Err(StateDirError::Newer { .. })
    ));
    fs::write(path.join(MARKER), "mine").unwrap();
    assert!(matches!(
        StateDir::open(&path),
        Err(StateDirError::NotOurs { .. })
    ));
}

#[test]
fn a_directory_that_all_may_write_to_is_refused() {
    let (_lab, path) = lab();
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        StateDir::open(&path),
        Err(StateDirError::WritableByAll { .. })
    ));
}

#[test]
fn the_second_daemon_is_told_who_the_first_is() {
    let (_lab, path) = lab();
    let first = StateDir::open(&path).unwrap();
    let error = StateDir::open(&path).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!(
            "another peerix daemon (pid {})",
            std::process::id()
        )),
        "{error}"
    );
    drop(first);
    StateDir::open(&path).unwrap();
}

/// Not a test of its own: the other process of the next one.
#[test]
#[ignore = "a helper that another test runs in a process of its own"]
fn hold_the_directory_until_told_otherwise() {
    let Some(path) = std::env::var_os("PEERIX_TEST_STATE_DIR") else {
        return;
    };
    let _state = StateDir::open(Path::new(&path)).unwrap();
    println!("held");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_directory_is_free_again_when_the_process_that_held_it_is_killed() {
    use std::io::BufRead;
    let (_lab, path) = lab();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "state_dir::tests::hold_the_directory_until_told_otherwise",
            "--ignored",
            "--nocapture",
        ])
        .env("PEERIX_TEST_STATE_DIR", &path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io::BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("held")),
        "the other process holds it"
    );
    let error = StateDir::open(&path).unwrap_err();
    assert!(
        matches!(error, StateDirError::InUse { process_id: Some(id), .. } if id == other.id()),
        "{error}"
    );
    other.kill().unwrap();
    other.wait().unwrap();
    StateDir::open(&path).unwrap();
}

#[test]
fn the_address_is_there_while_the_daemon_runs() {
    let (_lab, path) = lab();
    let state = StateDir::open(&path).unwrap();
    state
        .publish_http_address("127.0.0.1:12304".parse().unwrap())
        .unwrap();
    assert_eq!(
        fs::read_to_string(path.join(HTTP_ADDRESS)).unwrap(),
        "127.0.0.1:12304\n"
    );
    drop(state);
    let state = StateDir::open(&path).unwrap();
    assert!(
        !path.join(HTTP_ADDRESS).exists(),
        "left by a daemon that was killed"
    );
    state.withdraw_http_address().unwrap();
}
