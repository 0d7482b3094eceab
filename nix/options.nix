# The options of services.peerix that are the same on NixOS, nix-darwin and in home-manager.
{ lib, pkgs }:

let
  inherit (lib)
    literalExpression
    mkEnableOption
    mkOption
    types
    ;

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

  # An option of its own for a setting whose default is the daemon's business.
  setting =
    type: attributes:
    mkOption (
      {
        type = types.nullOr type;
        default = null;
      }
      // attributes
    );
  # A list whose place in the file is left out where it is empty.
  strings =
    attributes:
    mkOption (
      {
        type = types.listOf types.str;
        default = [ ];
      }
      // attributes
    );
  # `5MB`, or bytes.
  size = types.either types.ints.unsigned types.str;
in
{
  enable = mkEnableOption "peerix, a peer-to-peer binary cache for Nix";

  package = mkOption {
    type = types.package;
    default = pkgs.callPackage ../package.nix { };
    defaultText = literalExpression "pkgs.callPackage ./package.nix { }";
    description = "The package that has `bin/peerix`.";
  };

  trackerUrl = mkOption {
    type = types.nullOr types.str;
    default = "https://sophronesis.dev/peerix";
    description = ''
      The tracker through which peers find each other; `null`: LAN mode, on the local network
      alone. `"none"` is neither: without a tracker, and without LAN mode.
    '';
  };

  privateKeyFile = mkOption {
    type = types.nullOr types.str;
    default = null;
    example = "/run/secrets/peerix-key";
    description = ''
      Secret key that signs what is offered. It is made by `nix-store --generate-binary-cache-key`;
      on NixOS it may be root's alone, since systemd reads it for the daemon. It never enters the
      store.
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
      is there at run time only (`"/run/..."`) is read when the daemon starts: peerix trusts it, and
      Nix has to be told of it in another way, since its configuration is made before.
    '';
  };

  upstreamCache = mkOption {
    type = types.nullOr (types.either types.str (types.listOf types.str));
    default = "https://cache.nixos.org";
    description = ''
      HTTP caches, one or a list, to verify against and to fall back to; `null`: none. In LAN mode
      they are used only if this is set.
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
    description = "Seconds between looks through the whole store; 0: never. A rebuild of the system causes one.";
  };

  filterMode = mkOption {
    type = types.enum [
      "nixpkgs"
      "rules"
    ];
    default = "nixpkgs";
    description = "What is offered: what a public cache has, or (`\"rules\"`) all that is signed but what sounds private.";
  };

  filterPatterns = strings {
    example = [ "*-internal-*" ];
    description = "Names not to offer, beside those of `\"rules\"`.";
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
      Seconds for which Nix remembers hits and misses, of all caches; 60 finds soon what peers get.
      Sets `narinfo-cache-positive-ttl` and `narinfo-cache-negative-ttl`. Nix remembers a miss for
      an hour otherwise, so a path that a peer gets meanwhile is not asked for.
    '';
  };

  connectTimeout = mkOption {
    type = types.nullOr types.ints.unsigned;
    default = null;
    example = 2;
    description = ''
      Nix's `connect-timeout` for all caches, in seconds; 2 is good for a laptop. Nix waits long for
      caches that are down; peerix itself answers as long as its socket is there.
    '';
  };

  configureNix = mkOption {
    type = types.enum [
      "append"
      "none"
    ];
    default = "append";
    description = ''
      Whether peerix becomes one of Nix's substituters (`extra-substituters`) and the public key is
      trusted (`extra-trusted-public-keys`); `"none"` leaves Nix alone. Nothing else of Nix changes.
    '';
  };

  peers = strings {
    description = "Known peers: what `peerix ticket` printed there, or `ID@ADDR:PORT`.";
  };

  allowPeers = strings { description = "Endpoint ids to speak with alone; empty: all."; };

  denyPeers = strings { description = "Endpoint ids never to speak with."; };

  swarm = setting types.str {
    example = "example-fleet";
    description = "Name of the swarm; `null`: the public one, `\"none\"`: without one.";
  };

  swarmSecretFile = setting types.str {
    example = "/run/secrets/peerix-swarm";
    description = ''
      The secret of a private swarm, in a file. On NixOS it may be root's alone, since systemd
      reads it for the daemon. It never enters the store.
    '';
  };

  announce =
    setting
      (types.enum [
        "all"
        "shared"
        "none"
      ])
      {
        description = "What is announced of what is offered: `\"all\"`, `\"shared\"` or `\"none\"`; `null`: all.";
      };

  relays = strings {
    example = [ "https://relay.example.org" ];
    description = ''
      URLs of relays, `"tracker"` (those that trackers run alone) or `"off"`; empty: iroh's and the
      trackers'. With these two words neither DNS nor pkarr is used.
    '';
  };

  caFile = setting types.path {
    description = "Certificates (PEM) of authorities to trust for trackers and relays, beside the usual ones.";
  };

  irohBind = setting types.str {
    example = "0.0.0.0:4000";
    description = "Where iroh's UDP socket binds; `null`: port 12306.";
  };

  uploadLimit = setting size {
    example = "5MB";
    description = ''
      Bytes a second to all peers, or `"none"`; `null`: 10 MB to public addresses, no limit to
      private ones.
    '';
  };

  uploadLimitPerPeer = setting size {
    example = "1MB";
    description = "Bytes a second to each peer.";
  };

  uploadWhen =
    setting
      (types.enum [
        "always"
        "unmetered"
        "never"
      ])
      {
        description = ''
          When to upload; `"unmetered"`: not on metered connections or battery. `null`: always, but
          not on networks that are marked public.
        '';
      };

  quotaPerDay = setting size {
    example = "20GB";
    description = "Bytes uploaded in a day, kept over restarts.";
  };

  quotaPerMonth = setting size {
    example = "200GB";
    description = "Bytes uploaded in a calendar month, kept over restarts.";
  };

  blobQuota = setting size {
    example = "50GiB";
    description = "Disk space for downloads that are not in Nix's store; `null`: 10 GiB.";
  };

  wireCompression = setting (types.either types.ints.positive types.str) {
    example = "off";
    description = "Compression between peers; `null`: where a link is slow, `\"off\"`, or a level of zstd.";
  };

  proxyUpstream = setting types.bool {
    description = "Tell Nix of the upstream's paths too, and fetch them once for all peers.";
  };

  publicCacheKeys = strings {
    description = ''
      Keys whose signature makes a path public, so that it is offered; empty: cache.nixos.org's.
      What is given replaces it.
    '';
  };

  geoipDatabase = setting types.path {
    example = literalExpression "pkgs.dbip-country-lite.mmdb";
    description = ''
      Database in MaxMind's format that tells the countries of peers on the dashboard. Nixpkgs has one
      that is free to use: `pkgs.dbip-country-lite.mmdb`.
    '';
  };

  settings = mkOption {
    type = settingsType;
    default = { };
    example = literalExpression ''
      {
        hash_per_day = "none";
        store.uri = "daemon";
      }
    '';
    description = ''
      The daemon's configuration file, for what has no option of its own, and above those that
      have. `peerix check-config` lists the keys.
    '';
  };
}
