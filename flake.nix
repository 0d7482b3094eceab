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
      # A test on virtual machines.
      onMachines =
        pkgs: test:
        pkgs.testers.runNixOSTest (
          import test {
            module = ./module.nix;
            package = package pkgs;
          }
        );
      package = pkgs: pkgs.callPackage ./package.nix { commit = self.shortRev or "dev"; };
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

      # Paths, so that a configuration that imports one twice has it once. That for NixOS has
      # services.peerix-tracker too.
      nixosModules = rec {
        peerix = ./module.nix;
        default = peerix;
      };
      darwinModules = rec {
        peerix = ./nix/darwin-module.nix;
        default = peerix;
      };
      homeModules = rec {
        peerix = ./nix/home-module.nix;
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
              # Its tests read documents and Nix files too.
              src = self;
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
          two-machines = onMachines pkgs ./nix/two-machines.nix;
          with-tracker = onMachines pkgs ./nix/with-tracker.nix;
        }
      );
    };
}
