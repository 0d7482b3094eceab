//! The layout against two others who know the format: the crate nix-archive, and Nix itself.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    fs::{self, Permissions},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, fs::symlink},
    path::Path,
    process::Command,
    sync::Arc,
};

use nix_archive::nar::{self, CaseHack};
use proptest::{collection, prelude::*};

use super::{Layout, LayoutError, LayoutReader, layout};

/// What a store path can be.
#[derive(Clone)]
enum Tree {
    File { executable: bool, content: Vec<u8> },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

impl fmt::Debug for Tree {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                executable,
                content,
            } => write!(formatter, "File({executable}, {} bytes)", content.len()),
            Self::Symlink(target) => write!(formatter, "Symlink({})", target.escape_ascii()),
            Self::Directory(entries) => {
                let names = entries.iter();
                let names = names.map(|(name, tree)| (name.escape_ascii().to_string(), tree));
                formatter.debug_map().entries(names).finish()
            }
        }
    }
}

impl Tree {
    fn write(&self, path: &Path) {
        match self {
            Self::File {
                executable,
                content,
            } => {
                fs::write(path, content).unwrap();
                let mode = if *executable { 0o555 } else { 0o444 };
                fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            }
            Self::Symlink(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
            Self::Directory(entries) => {
                fs::create_dir(path).unwrap();
                for (name, entry) in entries {
                    entry.write(&path.join(OsStr::from_bytes(name)));
                }
            }
        }
    }
}

fn file(content: &[u8]) -> Tree {
    Tree::File {
        executable: false,
        content: content.to_vec(),
    }
}

fn executable(content: &[u8]) -> Tree {
    Tree::File {
        executable: true,
        content: content.to_vec(),
    }
}

fn directory<const N: usize>(entries: [(&[u8], Tree); N]) -> Tree {
    Tree::Directory(entries.map(|(name, tree)| (name.to_vec(), tree)).into())
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1..=255_u8).prop_filter("not in a name", |byte| *byte != b'/');
    let odd = collection::vec(byte, 1..12);
    let usual = "[a-c.]{1,3}".prop_map(String::into_bytes);
    prop_oneof![usual, odd].prop_filter("reserved", |name| name != b"." && name != b"..")
}

fn tree() -> impl Strategy<Value = Tree> {
    let len = prop_oneof![0..20_usize, 4000..4100_usize, Just(16384), Just(70_000)];
    let content = len.prop_flat_map(|len| collection::vec(any::<u8>(), len));
    let file = (any::<bool>(), content).prop_map(|(executable, content)| Tree::File {
        executable,
        content,
    });
    let target = collection::vec(1..=255_u8, 1..40);
    let leaf = prop_oneof![4 => file, 1 => target.prop_map(Tree::Symlink)];
    leaf.prop_recursive(5, 40, 8, |inner| {
        collection::btree_map(name(), inner, 0..8).prop_map(Tree::Directory)
    })
}

fn oracle(path: &Path) -> Vec<u8> {
    let mut nar = Vec::new();
    nar::encode_path(&mut nar, path, CaseHack::Disabled).unwrap();
    nar
}

fn read(layout: &Arc<Layout>, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    LayoutReader::new(layout.clone())
        .append(offset as u64, len, &mut bytes)
        .unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layout_reads_the_nar_that_nix_archive_encodes(
        tree in tree(),
        places in collection::vec((any::<prop::sample::Index>(), 0..40_000_usize), 8),
        off_by in prop_oneof![Just(-8_i64), Just(8), Just(1)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        tree.write(&root);
        let nar = oracle(&root);
        let layout = Arc::new(Layout::build(&root, nar.len() as u64).unwrap());
        prop_assert!(read(&layout, 0, nar.len()) == nar);

        // At any offset, with one reader that goes back and forth.
        let mut reader = LayoutReader::new(layout);
        for (start, len) in places {
            let start = start.index(nar.len());
            let len = len.min(nar.len() - start);
            let mut bytes = b"before".to_vec();
            reader.append(start as u64, len, &mut bytes).unwrap();
            prop_assert!(bytes.strip_prefix(b"before") == Some(&nar[start..start + len]));
        }

        let wrong_size = (nar.len() as u64).saturating_add_signed(off_by);
        let built = Layout::build(&root, wrong_size);
        prop_assert!(matches!(built, Err(LayoutError::Size { .. })), "{built:?}");
    }
}

/// Every kind of entry that a store path can have, and every length that pads differently.
fn edge_cases() -> Vec<(&'static str, Tree)> {
    let mut sizes = BTreeMap::new();
    for len in [
        0, 1, 7, 8, 9, 15, 16, 17, 4095, 4096, 16_383, 16_384, 16_385,
    ] {
        let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        sizes.insert(format!("{len}").into_bytes(), file(&content));
    }
    let mut deep = file(b"bottom");
    for _ in 0..100 {
        deep = directory([(b"d", deep)]);
    }
    vec![
        ("file", file(b"hello")),
        ("empty-file", file(b"")),
        ("executable", executable(b"#!/bin/sh\n")),
        ("empty-executable", executable(b"")),
        ("symlink", Tree::Symlink(b"../elsewhere".to_vec())),
        ("empty-directory", directory([])),
        ("sizes", Tree::Directory(sizes)),
        ("deep", deep),
        (
            "odd-names",
            directory([
                (b"\xff\xfe", file(b"not UTF-8")),
                (b"a", directory([(b"b", file(b"1"))])),
                (b"a.b", file(b"2")),
                (b"a-b", file(b"3")),
                (b"A", file(b"4")),
                (b" ", executable(b"5")),
                (b"\n", file(b"6")),
                (b"\x01", Tree::Symlink(b"\xff".to_vec())),
                (b"\xc3\xa4", directory([])),
                (b"~nix~case~hack~1", file(b"7")),
            ]),
        ),
    ]
}

#[test]
fn a_layout_reads_the_nar_that_nix_dumps() {
    let dumps = |path: &Path| {
        let mut command = Command::new("nix-store");
        command.arg("--dump").arg(path);
        command.output()
    };
    let dir = tempfile::tempdir().unwrap();
    for (name, tree) in edge_cases() {
        let root = dir.path().join(name);
        tree.write(&root);
        let nar = match dumps(&root) {
            Ok(output) => {
                assert!(output.status.success(), "{output:?}");
                output.stdout
            }
            Err(error) => {
                println!("skipped: nix-store --dump cannot be run here: {error}");
                return;
            }
        };
        // The oracle stops at 64 levels.
        assert!(name == "deep" || nar == oracle(&root), "{name}");
        let layout = Arc::new(Layout::build(&root, nar.len() as u64).unwrap());
        assert!(read(&layout, 0, nar.len()) == nar, "{name}");
    }
}

/// A directory with names that differ in case alone, as Nix unpacks it on macOS: stripping changes
/// the order of entries too.
fn case_hacked() -> Tree {
    directory([
        (b"README~nix~case~hack~1", file(b"second")),
        (b"README-too", file(b"third")),
        (
            b"Sub~nix~case~hack~12",
            directory([(b"x~nix~case~hack~2", executable(b"x")), (b"x!", file(b""))]),
        ),
        (b"readme", file(b"first")),
        (b"sub", Tree::Symlink(b"readme~nix~case~hack~1".to_vec())),
    ])
}

#[test]
fn names_of_the_case_hack_are_stripped_as_nix_strips_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    case_hacked().write(&root);
    let mut nar = Vec::new();
    nar::encode_path(&mut nar, &root, CaseHack::Enabled).unwrap();
    assert_ne!(nar, oracle(&root));
    let stripped = layout::CaseHack::Stripped;
    let layout = Layout::build_with(&root, nar.len() as u64, stripped).unwrap();
    assert!(read(&Arc::new(layout), 0, nar.len()) == nar);

    let mut nix = Command::new("nix-store");
    nix.args(["--option", "use-case-hack", "true", "--dump"]);
    match nix.arg(&root).output() {
        Ok(dumped) => assert!(dumped.stdout == nar, "{dumped:?}"),
        Err(error) => println!("skipped: nix-store --dump cannot be run here: {error}"),
    }
}

#[test]
fn names_that_the_case_hack_makes_one_have_no_nar() {
    let dir = tempfile::tempdir().unwrap();
    let twice = directory([(b"a", file(b"1")), (b"a~nix~case~hack~1", file(b"2"))]);
    let root = dir.path().join("root");
    twice.write(&root);
    let stripped = Layout::build_with(&root, 1 << 20, layout::CaseHack::Stripped);
    let error = stripped.unwrap_err().to_string();
    assert!(error.contains("two entries of one name"), "{error}");
    let nar = oracle(&root);
    assert!(Layout::build(&root, nar.len() as u64).is_ok());
}

#[test]
fn a_sparse_file_reads_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("sparse");
    let file = fs::File::create(&root).unwrap();
    file.set_len(3_000_001).unwrap();
    let nar = oracle(&root);
    let layout = Arc::new(Layout::build(&root, nar.len() as u64).unwrap());
    assert!(read(&layout, 0, nar.len()) == nar);
}

#[test]
fn a_socket_has_no_nar() {
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let error = Layout::build(dir.path(), 1 << 20).unwrap_err();
    assert!(
        error.to_string().contains("socket is neither"),
        "unexpected: {error}"
    );
}

#[test]
fn a_read_past_the_end_or_of_a_shortened_file_fails() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("file");
    fs::write(&root, [7; 1000]).unwrap();
    let nar = oracle(&root);
    let layout = Arc::new(Layout::build(&root, nar.len() as u64).unwrap());
    let mut reader = LayoutReader::new(layout.clone());
    let mut bytes = Vec::new();
    assert!(reader.append(nar.len() as u64, 1, &mut bytes).is_err());
    assert!(reader.append(u64::MAX, 1, &mut bytes).is_err());
    fs::write(&root, [7; 999]).unwrap();
    let mut reader = LayoutReader::new(layout);
    assert!(reader.append(0, nar.len(), &mut bytes).is_err());
}
