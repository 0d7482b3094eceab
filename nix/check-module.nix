# The module in the whole of NixOS: its units, and the files of /etc that it makes.
{ pkgs, module }:

let
  machine =
    peerix:
    (import (pkgs.path + "/nixos/lib/eval-config.nix") {
      system = null;
      modules = [
        module
        {
          nixpkgs.pkgs = pkgs;
          services.peerix = peerix // {
            enable = true;
          };
          services.peerix-tracker.enable = true;
          system.stateVersion = pkgs.lib.trivial.release;
        }
      ];
    }).config;
  parts = config: [
    config.environment.etc."peerix/config.toml".text
    config.systemd.units."peerix.service".text
    config.systemd.units."peerix.socket".text
    config.systemd.units."peerix-rescan.path".text
    config.systemd.units."peerix-tracker.service".text
  ];
in
pkgs.writeText "peerix-module" (
  # The words, without what they would have built.
  builtins.unsafeDiscardStringContext (
    pkgs.lib.concatStringsSep "\n" (
      pkgs.lib.concatMap (peerix: parts (machine peerix)) [
        { }
        { trackerUrl = null; }
        { lanDiscovery = true; }
        { user = "nobody"; }
      ]
    )
  )
)
