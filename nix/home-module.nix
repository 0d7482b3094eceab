# services.peerix for home-manager: a user's own daemon, without root; systemd's user manager on
# Linux, launchd on macOS. The store is read as far as that user may.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  inherit (lib) mkIf;

  cfg = config.services.peerix;
  daemon = import ./daemon-config.nix { inherit lib cfg options; };

  # Named, so that a change of it is a change of the unit, which is started anew then.
  configFile = pkgs.writeText "peerix.toml" daemon.text;
  start =
    if daemon.laterKeyFile == null then
      lib.escapeShellArgs (daemon.command configFile)
    else
      pkgs.writeShellScript "peerix-daemon" ''
        key=$(<${lib.escapeShellArg daemon.laterKeyFile}) || exit
        exec ${daemon.commandWithKey configFile}
      '';
  inherit (pkgs.stdenv.hostPlatform) isLinux isDarwin;
in
{
  options.services.peerix = import ./options.nix { inherit lib pkgs; };

  config = mkIf cfg.enable {
    inherit (daemon) assertions warnings;

    services.peerix.settings = daemon.defaultsWithSecretFiles;

    home.packages = [ cfg.package ];

    # home-manager writes nix.conf only for a Nix that it was told of. Nix listens to a user whom it
    # trusts (`trusted-users`), or to a substituter that it trusts (`trusted-substituters`).
    nix.settings = mkIf (config.nix.package != null) daemon.nixSettings;

    systemd.user = mkIf isLinux {
      sockets.peerix = {
        Unit.Description = "peerix, the substituter's socket";
        Socket = {
          ListenStream = lib.optionalString (!daemon.isLanHttp) "127.0.0.1:" + toString daemon.httpPort;
          Backlog = 512;
        };
        Install.WantedBy = [ "sockets.target" ];
      };
      services.peerix = {
        Unit = {
          Description = "peerix, a peer-to-peer binary cache for Nix";
          Documentation = [ "https://github.com/peerix/peerix" ];
          Requires = [ "peerix.socket" ];
          After = [ "peerix.socket" ];
        };
        Service = {
          Type = "notify";
          ExecStart = "${start}";
          ExecReload = "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID";
          TimeoutStopSec = 20;
          WatchdogSec = 60;
          Restart = "always";
          RestartSec = 2;
          # What a user's manager can keep from it without root.
          LockPersonality = true;
          MemoryDenyWriteExecute = true;
          NoNewPrivileges = true;
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          SystemCallArchitectures = "native";
          UMask = "0077";
        };
        Install.WantedBy = [ "default.target" ];
      };
    };

    launchd.agents.peerix = mkIf isDarwin {
      enable = true;
      config = {
        ProgramArguments = [
          "/bin/sh"
          "-c"
          "exec ${start}"
        ];
        RunAtLoad = true;
        KeepAlive = true;
        ProcessType = "Background";
        StandardErrorPath = "${config.home.homeDirectory}/Library/Logs/peerix.log";
      };
    };
  };
}
