# services.peerix: the daemon as a hardened unit, and Nix told to ask it. A plain NixOS module:
# `imports = [ ./module.nix ]` is all it takes, without flakes and overlays too.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  inherit (lib)
    literalExpression
    mkDefault
    mkEnableOption
    mkIf
    mkOption
    optional
    optionals
    types
    ;

  cfg = config.services.peerix;

  # What TOML can write, in the two levels that the daemon's file has.
  scalar = types.nullOr (
    types.oneOf [
      types.bool
      types.int
      types.float
      types.str
    ]
  );
  value = types.either scalar (types.listOf types.str);
  settingsType = types.attrsOf (types.either value (types.attrsOf value)) // {
    description = "TOML: keys, and sections of keys";
  };

  toml =
    let
      # A JSON scalar or list of strings is a TOML one.
      line = name: value: "${name} = ${builtins.toJSON value}\n";
      lines = keys: lib.concatStrings (lib.mapAttrsToList line (withoutNull keys));
      withoutNull = lib.filterAttrs (_name: value: value != null);
      section = name: keys: lib.optionalString (withoutNull keys != { }) "\n[${name}]\n${lines keys}";
      isSection = _name: lib.isAttrs;
    in
    settings:
    lines (lib.filterAttrs (name: value: !isSection name value) settings)
    + lib.concatStrings (lib.mapAttrsToList section (lib.filterAttrs isSection settings));

  configFile = toml cfg.settings;
  configPath = "/etc/peerix/config.toml";

  isLan = (cfg.settings.mode or null) == "lan" || (cfg.settings.lan_discovery or null) == true;
  httpPort = cfg.settings.server.port;
  irohPort =
    let
      bind = cfg.settings.iroh_bind or null;
    in
    if bind == null then 12306 else lib.toInt (lib.last (lib.splitString ":" bind));

  # Whether somebody set it, in place of its default.
  isSet = name: options.services.peerix.${name}.highestPrio < (lib.mkOptionDefault null).priority;

  # Read now where that is reproducible; else the unit reads it when it starts, and the store never
  # sees it.
  isAtHand =
    file: builtins.isPath file || lib.hasPrefix "${builtins.storeDir}/" (toString file);
  readKey = file: lib.removeSuffix "\n" (builtins.readFile file);
  knownKeys =
    optional (cfg.publicKey != null) cfg.publicKey
    ++ optional (cfg.publicKeyFile != null && isAtHand cfg.publicKeyFile) (readKey cfg.publicKeyFile);
  laterKeyFile =
    if cfg.publicKeyFile != null && !(isAtHand cfg.publicKeyFile) then cfg.publicKeyFile else null;
  trustedKeys = cfg.settings.trusted_public_keys or [ ];

  peerix = lib.getExe' cfg.package "peerix";
  daemon = "${peerix} daemon --config ${configPath}";
  # A flag replaces what the file says of the same, so all keys are given.
  daemonWithKey = pkgs.writeShellScript "peerix-daemon" ''
    key=$(<"$CREDENTIALS_DIRECTORY/public-key") || exit
    exec ${daemon} --trusted-public-key "$key" ${
      lib.concatMapStringsSep " " (key: "--trusted-public-key ${lib.escapeShellArg key}") trustedKeys
    }
  '';
in
{
  options.services.peerix = {
    enable = mkEnableOption "peerix, a peer-to-peer binary cache for Nix";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package that has `bin/peerix`.";
    };

    trackerUrl = mkOption {
      type = types.nullOr types.str;
      default = "https://sophronesis.dev/peerix";
      description = ''
        The tracker through which peers find each other. `null` is LAN mode: peers are found on the
        local network, and nothing leaves it.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Open the ports that peers use: UDP 12306, and on the local network (LAN mode or
        `lanDiscovery`) TCP and UDP 12304 and UDP 5353.
      '';
    };

    user = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "An existing user to run as; `null` is a dynamic user.";
    };

    group = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "An existing group to run as; `null` is the user's own.";
    };

    privateKeyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/secrets/peerix-key";
      description = ''
        Secret key that signs what is offered, as `nix-store --generate-binary-cache-key` makes it.
        systemd reads it for the daemon; it may be root's alone, and never enters the store.
      '';
    };

    publicKey = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
      description = "Public key of what peers sign, for Nix and for peerix to trust.";
    };

    publicKeyFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      description = ''
        File with such a key. A file of the configuration is read when that is evaluated. One that
        is there at run time only (`"/run/..."`) is read by the unit: peerix trusts it, and Nix
        has to be told of it in another way, since its configuration is made before.
      '';
    };

    upstreamCache = mkOption {
      type = types.nullOr (types.either types.str (types.listOf types.str));
      default = "https://cache.nixos.org";
      description = ''
        HTTP caches to verify against and to fall back to; `null` is none. In LAN mode they are
        used only if this is set.
      '';
    };

    priority = mkOption {
      type = types.ints.unsigned;
      default = 5;
      description = "What Nix is told; lower is asked earlier (cache.nixos.org has 40).";
    };

    timeout = mkOption {
      type = types.number;
      default = 10.0;
      description = "Seconds that connecting to a peer may take.";
    };

    scanInterval = mkOption {
      type = types.ints.unsigned;
      default = 3600;
      description = "Seconds between looks through the whole store; 0 is never.";
    };

    filterMode = mkOption {
      type = types.enum [
        "nixpkgs"
        "rules"
      ];
      default = "nixpkgs";
      description = "What is offered: what a public cache has, or all but what rules exclude.";
    };

    filterConcurrency = mkOption {
      type = types.ints.positive;
      default = 10;
      description = "How many paths are looked up upstream at once.";
    };

    noFilter = mkOption {
      type = types.bool;
      default = false;
      description = "Offer every path of the store, private ones too.";
    };

    noVerify = mkOption {
      type = types.bool;
      default = false;
      description = "Don't check signatures of what peers send (Nix still does).";
    };

    allowInsecureHttp = mkOption {
      type = types.bool;
      default = false;
      description = "Accept `http://` for the tracker and upstream caches.";
    };

    lanDiscovery = mkOption {
      type = types.bool;
      default = false;
      description = "Find peers on the local network beside iroh.";
    };

    globalCacheTTL = mkOption {
      type = types.nullOr types.ints.unsigned;
      default = null;
      example = 60;
      description = ''
        Seconds for which Nix remembers, of all caches, that a path is there or is not
        (`narinfo-cache-positive-ttl`, `narinfo-cache-negative-ttl`). Nix remembers a miss for an
        hour otherwise, so a path that a peer gets meanwhile is not asked for.
      '';
    };

    connectTimeout = mkOption {
      type = types.nullOr types.ints.unsigned;
      default = null;
      example = 2;
      description = ''
        Seconds after which Nix gives up a connection to any cache (`connect-timeout`). Nix waits
        long for caches that are down; peerix itself answers as long as its socket unit is up.
      '';
    };

    configureNix = mkOption {
      type = types.enum [
        "append"
        "none"
      ];
      default = "append";
      description = ''
        `append`: peerix is one of Nix's substituters, and the public key is trusted; nothing else
        of Nix changes. `none`: Nix's configuration is left alone.
      '';
    };

    peers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Known peers: what `peerix ticket` printed there, or `ID@ADDR:PORT`.";
    };

    announce = mkOption {
      type = types.nullOr (
        types.enum [
          "all"
          "shared"
          "none"
        ]
      );
      default = null;
      description = "What is announced to the swarm; `null` leaves it to the daemon.";
    };

    uploadLimit = mkOption {
      type = types.nullOr (types.either types.ints.positive types.str);
      default = null;
      example = "5MB";
      description = ''
        Bytes a second to all peers, or `"none"`; `null` is 10 MB to public addresses and no limit
        to private ones.
      '';
    };

    publicCacheKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = ''
        Keys whose signature makes a path public, so that it is offered; where there is none,
        cache.nixos.org's. What is given replaces it.
      '';
    };

    settings = mkOption {
      type = settingsType;
      default = { };
      example = literalExpression ''
        {
          relays = [ "off" ];
          blob_quota = "50GiB";
          store.filter_patterns = [ "*-secret-*" ];
        }
      '';
      description = ''
        The daemon's configuration file, for what has no option of its own, and above those that
        have. `peerix check-config` lists the keys.
      '';
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.isInt httpPort && httpPort > 0;
        message = "services.peerix: settings.server.port: Nix has to be told a port; 0 is none";
      }
      {
        assertion = !(cfg.settings ? state_dir);
        message = "services.peerix: settings.state_dir: the unit's state is in /var/lib/peerix";
      }
    ];
    warnings = optional (laterKeyFile != null && cfg.configureNix == "append") ''
      services.peerix.publicKeyFile is not there before run time: peerix trusts that key, Nix does
      not. Set services.peerix.publicKey for Nix to trust it too.
    '';

    services.peerix.settings = lib.mapAttrsRecursive (_path: mkDefault) (
      lib.filterAttrsRecursive (_name: value: value != null) {
        mode = if cfg.trackerUrl == null then "lan" else null;
        lan_discovery = cfg.lanDiscovery;
        peers = if cfg.peers == [ ] then null else cfg.peers;
        announce = cfg.announce;
        upload_limit = cfg.uploadLimit;
        public_cache_keys = if cfg.publicCacheKeys == [ ] then null else cfg.publicCacheKeys;
        trusted_public_keys = if knownKeys == [ ] then null else knownKeys;
        server = {
          port = 12304;
          priority = cfg.priority;
          timeout = cfg.timeout;
        };
        tracker.url = cfg.trackerUrl;
        store = {
          scan_interval = cfg.scanInterval;
          filter_mode = cfg.filterMode;
          filter_concurrency = cfg.filterConcurrency;
          no_filter = cfg.noFilter;
          no_verify = cfg.noVerify;
          upstream_cache =
            # LAN mode leaves the network for what its owner named, not for a default.
            if cfg.upstreamCache == null || (cfg.trackerUrl == null && !isSet "upstreamCache") then
              "none"
            else
              cfg.upstreamCache;
        };
        security.allow_insecure_http = cfg.allowInsecureHttp;
      }
    );

    environment.etc."peerix/config.toml".text = configFile;
    environment.systemPackages = [ cfg.package ];

    networking.firewall = mkIf cfg.openFirewall {
      allowedUDPPorts = [
        irohPort
      ]
      ++ optionals isLan [
        httpPort
        5353
      ];
      allowedTCPPorts = optional isLan httpPort;
    };

    nix.settings = mkIf (cfg.configureNix == "append") (
      {
        extra-substituters = [ "http://127.0.0.1:${toString httpPort}/" ];
        extra-trusted-public-keys = knownKeys;
      }
      // lib.optionalAttrs (cfg.globalCacheTTL != null) {
        narinfo-cache-positive-ttl = cfg.globalCacheTTL;
        narinfo-cache-negative-ttl = cfg.globalCacheTTL;
      }
      // lib.optionalAttrs (cfg.connectTimeout != null) { connect-timeout = cfg.connectTimeout; }
    );

    # Its members may change what the daemon does; everyone may ask it.
    users.groups.peerix = { };

    # Listens while the daemon starts and restarts: Nix waits a moment, and never meets a refused
    # connection.
    systemd.sockets.peerix = {
      description = "peerix, the substituter's socket";
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        # A port alone is every address, of both families: other hosts get `/local/...` there.
        ListenStream = lib.optionalString (!isLan) "127.0.0.1:" + toString httpPort;
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
      restartTriggers = [ configFile ];

      serviceConfig = {
        Type = "notify";
        ExecStart = if laterKeyFile == null then daemon else daemonWithKey;
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
        UMask = "0077";
        LoadCredential =
          optional (cfg.privateKeyFile != null) "private-key:${cfg.privateKeyFile}"
          ++ optional (laterKeyFile != null) "public-key:${laterKeyFile}";
        LimitNOFILE = 65536;

        # It reads /nix and its credentials, writes its state, speaks to the network and to Nix's
        # daemon; nothing else.
        AmbientCapabilities = "";
        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateMounts = true;
        PrivateTmp = true;
        ProcSubset = "pid";
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
      }
      // lib.optionalAttrs (cfg.group != null) { Group = cfg.group; }
      // lib.optionalAttrs (cfg.privateKeyFile != null) {
        Environment = "PEERIX_PRIVATE_KEY=%d/private-key";
      };
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
