# services.peerix: the daemon as a hardened unit, and Nix told to ask it; services.peerix-tracker. A
# plain NixOS module: `imports = [ ./module.nix ]` is all it takes, without flakes and overlays too.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  inherit (lib)
    mkIf
    mkOption
    optional
    types
    ;

  cfg = config.services.peerix;
  daemon = import ./nix/daemon-config.nix { inherit lib cfg options; };
  inherit (daemon) httpPort isLan isLanHttp laterKeyFile;

  configPath = "/etc/peerix/config.toml";
  withKey = pkgs.writeShellScript "peerix-daemon" ''
    key=$(<"$CREDENTIALS_DIRECTORY/public-key") || exit
    exec ${daemon.commandWithKey configPath}
  '';
in
{
  imports = [ ./nix/tracker-module.nix ];

  options.services.peerix = import ./nix/options.nix { inherit lib pkgs; } // {
    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Open the ports that peers use: UDP 12306, on the local network (LAN mode or `lanDiscovery`)
        UDP 5353, and in the public swarm TCP and UDP 12304 there too.
      '';
    };

    user = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "An existing user to run as; `null`: a dynamic user.";
    };

    group = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "An existing group to run as; `null`: the user's own.";
    };
  };

  config = mkIf cfg.enable {
    assertions = daemon.assertions ++ [
      {
        assertion = !(cfg.settings ? state_dir);
        message = "services.peerix: settings.state_dir: the unit's state is in /var/lib/peerix";
      }
    ];
    inherit (daemon) warnings;

    services.peerix.settings = daemon.defaults;

    environment.etc."peerix/config.toml".text = daemon.text;
    environment.systemPackages = [ cfg.package ];

    networking.firewall = mkIf cfg.openFirewall {
      allowedUDPPorts = [
        daemon.irohPort
      ]
      ++ optional isLanHttp httpPort
      ++ optional isLan 5353;
      allowedTCPPorts = optional isLanHttp httpPort;
    };

    nix.settings = daemon.nixSettings;

    # Its members may change what the daemon does; everyone may ask it.
    users.groups.peerix = { };

    # Listens while the daemon starts and restarts: Nix waits a moment, and never meets a refused
    # connection.
    systemd.sockets.peerix = {
      description = "peerix, the substituter's socket";
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        # A port alone is every address, of both families: other hosts get `/local/...` there.
        ListenStream = lib.optionalString (!isLanHttp) "127.0.0.1:" + toString httpPort;
        # As many as Nix opens at once, and some.
        Backlog = 512;
      };
    };

    systemd.services.peerix = {
      description = "peerix, a peer-to-peer binary cache for Nix";
      documentation = [ "https://github.com/peerix/peerix" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      requires = [ "peerix.socket" ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
        "peerix.socket"
      ];
      restartTriggers = [ daemon.text ];

      serviceConfig =
        import ./nix/hardening.nix
        // {
          Type = "notify";
          ExecStart = if laterKeyFile == null then toString (daemon.command configPath) else withKey;
          ExecReload = "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID";
          # The daemon ends within ten seconds.
          TimeoutStopSec = 20;
          WatchdogSec = 60;
          Restart = "always";
          RestartSec = 2;

          # Not `peerix`, which is the group of those who may change things: with that group there,
          # systemd would take no dynamic user of the name.
          DynamicUser = cfg.user == null;
          User = if cfg.user == null then "peerix-daemon" else cfg.user;
          StateDirectory = "peerix";
          StateDirectoryMode = "0700";
          RuntimeDirectory = "peerix";
          RuntimeDirectoryMode = "0755";
          LoadCredential =
            optional (cfg.privateKeyFile != null) "private-key:${cfg.privateKeyFile}"
            ++ optional (cfg.swarmSecretFile != null) "swarm-secret:${cfg.swarmSecretFile}"
            ++ optional (laterKeyFile != null) "public-key:${laterKeyFile}";
          Environment =
            optional (cfg.privateKeyFile != null) "PEERIX_PRIVATE_KEY=%d/private-key"
            ++ optional (cfg.swarmSecretFile != null) "PEERIX_SWARM_SECRET_FILE=%d/swarm-secret";
          LimitNOFILE = 65536;
        }
        // lib.optionalAttrs (cfg.group != null) { Group = cfg.group; };
    };

    # A rebuild of the system brings new paths: SIGHUP has the daemon look.
    systemd.paths.peerix-rescan = {
      description = "peerix, watching for a rebuild of the system";
      wantedBy = [ "multi-user.target" ];
      pathConfig.PathChanged = "/run/current-system";
    };
    systemd.services.peerix-rescan = {
      description = "peerix, looking through the store after a rebuild of the system";
      serviceConfig = {
        Type = "oneshot";
        # Where the daemon is not running there is nothing to tell.
        ExecStart = "-${lib.getExe' config.systemd.package "systemctl"} --no-block reload peerix.service";
      };
    };
  };
}
