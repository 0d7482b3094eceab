//! Paths that Nix built itself, with the references that it found.

use crate::support::{
    nix_store::{Key, NixStore},
    peer::PeerOptions,
    run, run_ok, skip, text_of,
};

/// A library, a program that refers to it and to itself, and a script with an odd name.
const EXPRESSION: &str = r##"
let
  system = builtins.currentSystem;
  make = name: text: derivation {
    inherit name system;
    builder = "/bin/sh";
    PATH = "/bin:/usr/bin";
    args = [ "-c" text ];
  };
  library = make "library" "mkdir -p $out/lib; cp -r /usr/share/perl* $out/lib/ 2>/dev/null; echo library > $out/lib/x";
in make "program?version=1" ''
  mkdir -p $out/bin
  echo "#!/bin/sh" > $out/bin/program
  echo "exec cat ${library}/lib/x $out" >> $out/bin/program
  chmod +x $out/bin/program
  ln -s ${library}/lib $out/lib
''
"##;

#[test]
fn a_closure_that_nix_built_is_substituted() {
    let key = Key::generate("builder-1");
    let a = NixStore::new();
    let expression = a.root().join("program.nix");
    std::fs::write(&expression, EXPRESSION).expect("our own directory");
    let derivation = run_ok(
        a.program("nix-instantiate")
            .args(["--store", &a.uri()])
            .arg(&expression),
    );
    let built = run(a.nix_store().arg("-r").arg(derivation.trim()));
    if !built.status.success() {
        return skip(&format!(
            "Nix can't build in a chroot store here, which takes user namespaces: {}",
            text_of(&built).lines().last().unwrap_or_default()
        ));
    }
    let program = String::from_utf8_lossy(&built.stdout).trim().to_owned();
    a.sign(&key, &[&program]);
    let sharer = PeerOptions::new(&a).start();
    sharer.share(&program);
    let b = NixStore::new();
    let receiver = PeerOptions::new(&b)
        .peer(&sharer)
        .trust(&key.public)
        .start();

    b.substitute(&program, &[receiver.url()], &[&key.public]);

    b.verify_contents();
    assert_eq!(b.references(&program).len(), 2);
    assert_eq!(a.dump(&program), b.dump(&program));
}
