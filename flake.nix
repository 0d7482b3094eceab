{
  description = "A peer-to-peer binary cache for Nix";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      eachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      package = pkgs: pkgs.callPackage ./package.nix { };
    in
    {
      packages = eachSystem (pkgs: rec {
        peerix = package pkgs;
        default = peerix;
      });

      apps = eachSystem (pkgs: rec {
        peerix = {
          type = "app";
          program = lib.getExe (package pkgs);
          meta.description = "A peer-to-peer binary cache for Nix";
        };
        default = peerix;
      });

      overlays.default = final: _previous: { peerix = package final; };

      # A path, so that a configuration that imports it twice has it once.
      nixosModules = rec {
        peerix = ./module.nix;
        default = peerix;
      };

      devShells = eachSystem (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (package pkgs) ];
          packages = [
            pkgs.clippy
            pkgs.nix
            pkgs.rustfmt
            pkgs.strace
          ];
        };
      });

      checks = eachSystem (
        pkgs:
        let
          # Cargo's `command` over the whole workspace, in place of a build.
          cargo =
            name: inputs: command:
            (package pkgs).overrideAttrs (previous: {
              pname = "peerix-${name}";
              nativeBuildInputs = previous.nativeBuildInputs ++ inputs;
              NIXPKGS_LIB = "${nixpkgs}/lib";
              buildPhase = command;
              doCheck = false;
              installPhase = "touch $out";
              # It has nothing to fix.
              dontFixup = true;
            });
        in
        {
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) peerix;
          fmt = cargo "fmt" [ pkgs.rustfmt ] "cargo fmt --all --check";
          clippy = cargo "clippy" [
            pkgs.clippy
          ] "cargo clippy --workspace --all-targets --locked --offline -- -D warnings";
          tests = cargo "tests" [
            pkgs.nix
            pkgs.strace
          ] "cargo test --workspace --locked --offline";
          module = import ./nix/check-module.nix {
            inherit pkgs;
            module = ./module.nix;
          };
        }
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
          two-machines = pkgs.testers.runNixOSTest (
            import ./nix/two-machines.nix {
              module = ./module.nix;
              package = package pkgs;
            }
          );
        }
      );
    };
}
