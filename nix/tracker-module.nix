# services.peerix-tracker: where peers find each other, as a hardened unit. Part of ../module.nix.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    literalExpression
    mkEnableOption
    mkIf
    mkOption
    optional
    types
    ;

  cfg = config.services.peerix-tracker;

  stateDir = "/var/lib/peerix-tracker";
  # Where the database is not in the unit's own directory, that has to be opened to it.
  elsewhere = !(lib.hasPrefix "${stateDir}/" cfg.dbPath);
  relayPort = lib.toInt (lib.last (lib.splitString ":" cfg.relay));

  # A port that is root's unless a unit may.
  needsLowPort = cfg.port < 1024 || (cfg.relay != null && relayPort < 1024);

  # systemd expands these two characters.
  escape =
    words:
    lib.replaceStrings
      [
        "%"
        "$"
      ]
      [
        "%%"
        "$$"
      ]
      (lib.escapeShellArgs words);

  flag = name: value: optional (value != null) "--${name}=${toString value}";
  command = [
    (lib.getExe' cfg.package "peerix")
    "tracker"
  ]
  ++ flag "host" cfg.host
  ++ flag "port" cfg.port
  ++ (if cfg.databaseFile == null then flag "db-path" cfg.dbPath else [ ])
  ++ optional cfg.requireSigned "--require-signed"
  ++ flag "relay" cfg.relay
  ++ flag "relay-url" cfg.relayUrl
  ++ map (proxy: "--trusted-proxy=${proxy}") cfg.trustedProxies
  ++ cfg.extraFlags;
in
{
  options.services.peerix-tracker = {
    enable = mkEnableOption "a tracker, through which peers of peerix find each other";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../package.nix { };
      defaultText = literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package that has `bin/peerix`.";
    };

    port = mkOption {
      type = types.port;
      default = 12305;
      description = "TCP port of its HTTP API.";
    };

    host = mkOption {
      type = types.str;
      default = "0.0.0.0";
      example = "127.0.0.1";
      description = "Address that it listens on; behind a proxy that speaks TLS: `127.0.0.1`.";
    };

    dbPath = mkOption {
      type = types.str;
      default = "${stateDir}/tracker.db";
      description = ''
        Its SQLite database. One in another directory needs a `user` who may write there.
      '';
    };

    databaseFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/secrets/peerix-tracker-database";
      description = ''
        File with the URL of a PostgreSQL database, in place of `dbPath`. It may be root's alone,
        since systemd reads it for the tracker.
      '';
    };

    requireSigned = mkOption {
      type = types.bool;
      default = false;
      description = "Refuse writes that no endpoint signed, as older peers send them.";
    };

    relay = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "0.0.0.0:12307";
      description = "Run a relay for the peers too, on this address and port.";
    };

    relayUrl = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "https://relay.example.org";
      description = "URL by which peers reach that relay.";
    };

    relayCertificateFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/var/lib/acme/relay.example.org/cert.pem";
      description = ''
        The relay's certificate (PEM), with which it needs no proxy and tells peers their addresses
        over QUIC. systemd reads it for the tracker, once: restart that when it is renewed.
      '';
    };

    relayKeyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/var/lib/acme/relay.example.org/key.pem";
      description = "Private key of that certificate; it may be root's alone.";
    };

    trustedProxies = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "10.0.0.0/24" ];
      description = "Networks of proxies that are believed what they say of clients; one on this machine always is.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = "Open its TCP port, and the relay's; with a certificate UDP 7842 too.";
    };

    user = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "An existing user to run as; `null`: a dynamic user.";
    };

    extraFlags = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Further flags: `peerix tracker --help` lists them.";
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = (cfg.relayCertificateFile == null) == (cfg.relayKeyFile == null);
        message = "services.peerix-tracker: relayCertificateFile and relayKeyFile belong together";
      }
      {
        assertion = !elsewhere || cfg.databaseFile != null || cfg.user != null;
        message = "services.peerix-tracker.dbPath: outside of ${stateDir} it needs a user who may write there";
      }
    ];

    environment.systemPackages = [ cfg.package ];

    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall (
      [ cfg.port ] ++ optional (cfg.relay != null) relayPort
    );

    networking.firewall.allowedUDPPorts = mkIf cfg.openFirewall (
      optional (cfg.relay != null && cfg.relayCertificateFile != null) 7842
    );

    systemd.services.peerix-tracker = {
      description = "peerix' tracker";
      documentation = [ "https://github.com/peerix/peerix" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];

      serviceConfig =
        import ./hardening.nix
        // {
          Type = "notify";
          ExecStart = escape command;
          TimeoutStopSec = 20;
          WatchdogSec = 60;
          Restart = "always";
          RestartSec = 2;

          # Unlike the daemon, it gives no thread another priority.
          SystemCallFilter = (import ./hardening.nix).SystemCallFilter ++ [ "~@resources" ];

          DynamicUser = cfg.user == null;
          User = if cfg.user == null then "peerix-tracker" else cfg.user;
          StateDirectory = "peerix-tracker";
          StateDirectoryMode = "0700";
          LoadCredential =
            optional (cfg.databaseFile != null) "database:${cfg.databaseFile}"
            ++ optional (cfg.relayCertificateFile != null) "relay-certificate:${cfg.relayCertificateFile}"
            ++ optional (cfg.relayKeyFile != null) "relay-key:${cfg.relayKeyFile}";
          Environment =
            optional (
              cfg.relayCertificateFile != null
            ) "PEERIX_TRACKER_RELAY_CERTIFICATE=%d/relay-certificate"
            ++ optional (cfg.relayKeyFile != null) "PEERIX_TRACKER_RELAY_KEY=%d/relay-key";
          ReadWritePaths = optional elsewhere (dirOf cfg.dbPath);
          # Nothing of Nix is its business.
          InaccessiblePaths = [ "-/nix/var" ];
          LimitNOFILE = 65536;
        }
        // lib.optionalAttrs needsLowPort {
          AmbientCapabilities = "CAP_NET_BIND_SERVICE";
          CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
        }
        // lib.optionalAttrs (cfg.databaseFile != null) {
          ExecStart = pkgs.writeShellScript "peerix-tracker" ''
            PEERIX_TRACKER_DATABASE=$(<"$CREDENTIALS_DIRECTORY/database") || exit
            export PEERIX_TRACKER_DATABASE
            exec ${lib.escapeShellArgs command}
          '';
        };
    };
  };
}
