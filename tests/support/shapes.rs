//! Store paths of every shape that Nix allows, and closures.

use super::{
    nix_store::{NixStore, PathSpec},
    tree::{Content, Node},
};

/// Bytes up to which a NAR is checked as a whole before its first byte leaves.
pub const CHECKED_FIRST: u64 = 4 << 20;

/// NAR bytes around the contents of a flat file whose size is a multiple of 8.
pub const FLAT_FRAMING: u64 = 112;

/// Every kind of entry that a NAR can hold, and names that naive code trips over.
pub fn edge_shapes() -> Vec<PathSpec> {
    let mut shapes = vec![
        PathSpec::new("edge-flat", Node::text("a flat file\n")),
        PathSpec::new("edge-exec", Node::script("#!/bin/sh\necho hello\n")),
        PathSpec::new("edge-symlink", Node::link("../some/where else")),
        PathSpec::new("edge-emptydir", Node::directory([])),
        PathSpec::new("edge-emptyfile", Node::text("")),
        PathSpec::new("edge-question?x=1", Node::text("odd name\n")),
        PathSpec::new("edge+plus_1.0-a.b", Node::text("plus\n")),
        PathSpec::new("edge-etc-passwd-secret-x", Node::text("not a secret\n")),
        PathSpec::new(
            "edge-unicode",
            Node::directory([
                ("grüße und käse", Node::text("bytes\n")),
                ("日本語", Node::directory([("leer", Node::directory([]))])),
                (".hidden", Node::script("#!/bin/sh\n")),
                ("link", Node::link("./日本語/leer")),
                ("new\nline", Node::text("name with a line feed")),
                ("-dash", Node::text("")),
                ("UPPER", Node::text("u")),
                ("upper", Node::text("l")),
            ]),
        ),
        PathSpec::new("edge-self-ref", Node::text("refers to itself")).referring_to_itself(),
        PathSpec::new(
            "edge-sparse",
            Node::directory([
                (
                    "hole",
                    Node::File {
                        content: Content::Sparse(3_000_001),
                        executable: false,
                    },
                ),
                ("after", Node::text("x")),
            ]),
        ),
    ];
    for size in [0, 1, 7, 8, 9, 16_383, 16_384, 16_385] {
        shapes.push(PathSpec::new(
            &format!("edge-size-{size}"),
            Node::directory([
                ("content", Node::random(size, "edge")),
                ("zz-last", Node::text("end")),
            ]),
        ));
    }
    let around = CHECKED_FIRST - FLAT_FRAMING;
    for size in [around - 8, around, around + 8, around + 16_384] {
        shapes.push(PathSpec::new(
            &format!("edge-nar-of-{}", size + FLAT_FRAMING),
            Node::random(size, "around the limit"),
        ));
    }
    shapes
}

/// A chain and a diamond: `count` libraries of `size` bytes, and a program that refers to all.
///
/// Returns the program's store path; each library refers to the one before it.
pub fn add_closure(store: &NixStore, name: &str, count: usize, size: u64) -> String {
    let mut specs: Vec<PathSpec> = Vec::new();
    for n in 0..count {
        let before: Vec<String> = specs.last().map(PathSpec::store_path).into_iter().collect();
        let node = Node::directory([
            ("lib", Node::random(size, &format!("{name} {n}"))),
            ("needs", Node::text(&before.join("\n"))),
        ]);
        specs.push(PathSpec::new(&format!("{name}-lib-{n}"), node).with_references(&before));
    }
    let all: Vec<String> = specs.iter().map(PathSpec::store_path).collect();
    let program = Node::directory([(
        "bin",
        Node::directory([("run", Node::script(&all.join("\n")))]),
    )]);
    specs.push(
        PathSpec::new(name, program)
            .with_references(&all)
            .referring_to_itself(),
    );
    store.add_all(specs).pop().expect("the program")
}
