# peerix as a package: for `callPackage`, with or without flakes.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  # What `peerix --version` says that it was built from.
  commit ? "dev",
}:

let
  manifest = builtins.fromTOML (builtins.readFile ./Cargo.toml);
in
rustPlatform.buildRustPackage {
  pname = "peerix";
  version = manifest.workspace.package.version;

  # What is built from; documents and Nix files make nothing anew.
  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./Cargo.toml
      ./Cargo.lock
      ./build.rs
      ./benches
      ./dashboard/dist
      ./gossip
      ./src
      ./store
      ./tests
    ];
  };

  cargoLock.lockFile = ./Cargo.lock;

  env.PEERIX_COMMIT = commit;

  nativeBuildInputs = [ installShellFiles ];

  # The tests of the whole program run a real Nix over stores of their own: a check of the flake.
  cargoTestFlags = [ "--lib" ];

  postInstall = ''
    for name in peerix-iroh peerix-tracker; do
      [ -e "$out/bin/$name" ] || ln -s peerix "$out/bin/$name"
    done
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    $out/bin/peerix man --out man >/dev/null
    installManPage man/man1/* man/man5/*
    installShellCompletion --cmd peerix \
      --bash <($out/bin/peerix completions bash) \
      --fish <($out/bin/peerix completions fish) \
      --zsh <($out/bin/peerix completions zsh)
  '';

  meta = {
    description = "A peer-to-peer binary cache for Nix";
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = "peerix";
    platforms = lib.platforms.unix;
  };
}
