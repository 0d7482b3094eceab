# What the options of services.peerix come to: the daemon's file, and what others have to know of it.
{
  lib,
  cfg,
  options,
}:

let
  inherit (lib) mkDefault mkIf optional;

  # Whether the option of a name was set: `default` has priority 1500 and whatever a person writes is
  # less.
  isSet = name: options.services.peerix.${name}.highestPrio < (lib.mkOptionDefault null).priority;

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

  # Read now where that is reproducible; else the daemon's start reads it, and the store never sees
  # it.
  isAtHand =
    file: builtins.isPath file || lib.hasPrefix "${builtins.storeDir}/" (toString file);
  readKey = file: lib.removeSuffix "\n" (builtins.readFile file);
  knownKeys =
    optional (cfg.publicKey != null) cfg.publicKey
    ++ optional (cfg.publicKeyFile != null && isAtHand cfg.publicKeyFile) (readKey cfg.publicKeyFile);

  orNull = list: if list == [ ] then null else list;
  isLanMode = cfg.trackerUrl == null;
in
rec {
  inherit knownKeys;

  # A file with a public key that is there at run time only.
  laterKeyFile =
    if cfg.publicKeyFile != null && !(isAtHand cfg.publicKeyFile) then cfg.publicKeyFile else null;

  # The file's keys as the options say them, each below what `settings` says of it.
  defaults = lib.mapAttrsRecursive (_path: mkDefault) (
    lib.filterAttrsRecursive (_name: value: value != null) {
      mode = if isLanMode then "lan" else null;
      lan_discovery = cfg.lanDiscovery;
      peers = orNull cfg.peers;
      allow_peers = orNull cfg.allowPeers;
      deny_peers = orNull cfg.denyPeers;
      swarm = cfg.swarm;
      announce = cfg.announce;
      relays = orNull cfg.relays;
      iroh_bind = cfg.irohBind;
      ca_file = cfg.caFile;
      upload_limit = cfg.uploadLimit;
      upload_limit_per_peer = cfg.uploadLimitPerPeer;
      upload_when = cfg.uploadWhen;
      quota_per_day = cfg.quotaPerDay;
      quota_per_month = cfg.quotaPerMonth;
      blob_quota = cfg.blobQuota;
      wire_compression = cfg.wireCompression;
      proxy_upstream = cfg.proxyUpstream;
      geoip_database = cfg.geoipDatabase;
      public_cache_keys = orNull cfg.publicCacheKeys;
      trusted_public_keys = orNull knownKeys;
      server = {
        port = 12304;
        priority = cfg.priority;
        timeout = cfg.timeout;
      };
      tracker.url = cfg.trackerUrl;
      store = {
        scan_interval = cfg.scanInterval;
        filter_mode = cfg.filterMode;
        filter_patterns = orNull cfg.filterPatterns;
        filter_concurrency = cfg.filterConcurrency;
        no_filter = cfg.noFilter;
        no_verify = cfg.noVerify;
        upstream_cache =
          # LAN mode leaves the network for what its owner named, not for a default.
          if cfg.upstreamCache == null || (isLanMode && !isSet "upstreamCache") then
            "none"
          else
            cfg.upstreamCache;
      };
      security.allow_insecure_http = cfg.allowInsecureHttp;
    }
  );

  # The same, where no service manager hands secrets over and the daemon reads their files itself.
  defaultsWithSecretFiles = lib.mkMerge [
    defaults
    (mkIf (cfg.privateKeyFile != null) { signing.private_key = mkDefault cfg.privateKeyFile; })
    (mkIf (cfg.swarmSecretFile != null) { swarm_secret_file = mkDefault cfg.swarmSecretFile; })
  ];

  text = toml cfg.settings;

  isLan = (cfg.settings.mode or null) == "lan" || (cfg.settings.lan_discovery or null) == true;
  # Over HTTP, where nobody proves anything, and over the older program's UDP protocol, other hosts
  # are served in the public swarm alone; the daemon starts with no socket that says otherwise.
  isLanHttp =
    isLan
    && builtins.elem (cfg.settings.swarm or "public") [
      null
      "none"
      "public"
    ];
  httpPort = cfg.settings.server.port;
  irohPort =
    let
      bind = cfg.settings.iroh_bind or null;
    in
    if bind == null then 12306 else lib.toInt (lib.last (lib.splitString ":" bind));

  # The command, as a list. A flag replaces what the file says of the same, so all keys are given.
  command =
    configFile:
    [
      (lib.getExe' cfg.package "peerix")
      "daemon"
      "--config"
      configFile
    ];
  # The same for a shell, with the key that the shell's `$key` holds.
  commandWithKey =
    configFile:
    lib.concatStringsSep " " (
      map lib.escapeShellArg (command configFile)
      ++ [ ''--trusted-public-key "$key"'' ]
      ++ map (key: "--trusted-public-key ${lib.escapeShellArg key}") (cfg.settings.trusted_public_keys or [ ])
    );

  # What Nix is told, as `nix.settings`.
  nixSettings =
    lib.optionalAttrs (cfg.configureNix == "append") {
      extra-substituters = [ "http://127.0.0.1:${toString httpPort}/" ];
      extra-trusted-public-keys = knownKeys;
    }
    // lib.optionalAttrs (cfg.configureNix == "append" && cfg.globalCacheTTL != null) {
      narinfo-cache-positive-ttl = cfg.globalCacheTTL;
      narinfo-cache-negative-ttl = cfg.globalCacheTTL;
    }
    // lib.optionalAttrs (cfg.configureNix == "append" && cfg.connectTimeout != null) {
      connect-timeout = cfg.connectTimeout;
    };

  assertions = [
    {
      assertion = lib.isInt httpPort && httpPort > 0;
      message = "services.peerix: settings.server.port: Nix has to be told a port; 0 is none";
    }
    {
      assertion = cfg.swarmSecretFile == null || !(cfg.swarm == null || cfg.swarm == "public" || cfg.swarm == "none");
      message = "services.peerix.swarmSecretFile: a swarm with a secret needs a name of its own: set services.peerix.swarm";
    }
  ];
  warnings = optional (laterKeyFile != null && cfg.configureNix == "append") ''
    services.peerix.publicKeyFile is not there before run time: peerix trusts that key, Nix does
    not. Set services.peerix.publicKey for Nix to trust it too.
  '';
}
