# Evaluates the modules for nix-darwin and home-manager as those do, without the rest of them: the
# options that a module sets are declared here, and no others, so that whatever else it sets is an
# error.
{
  lib,
  module,
  # "darwin" or "home".
  kind,
  # Where home-manager runs: "linux" or "darwin".
  system ? "linux",
  # The configuration of services.peerix.
  peerix,
  # Whether home-manager was told of a Nix.
  withNix ? true,
  # A directory with bin/peerix.
  package,
}:

let
  inherit (lib) mkOption types;

  free = mkOption {
    type = types.attrsOf types.anything;
    default = { };
  };
  names = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };
  packages = mkOption {
    type = types.listOf types.package;
    default = [ ];
  };

  derivationAt = outPath: {
    type = "derivation";
    name = "at-${baseNameOf outPath}";
    inherit outPath;
  };

  common = {
    assertions = mkOption {
      type = types.listOf types.anything;
      default = [ ];
    };
    warnings = names;
    nix.settings = free;
  };
  darwin = common // {
    environment.etc = free;
    environment.systemPackages = packages;
    users.knownUsers = names;
    users.knownGroups = names;
    users.users = free;
    users.groups = free;
    launchd.daemons = free;
    launchd.labelPrefix = mkOption {
      type = types.str;
      default = "org.nixos";
    };
  };
  home = {
    inherit (common) assertions warnings;
    nix.settings = free;
    nix.package = mkOption {
      type = types.nullOr types.package;
      default = if withNix then derivationAt "/nix" else null;
    };
    home.packages = packages;
    home.homeDirectory = mkOption { default = "/Users/somebody"; };
    systemd.user.services = free;
    systemd.user.sockets = free;
    launchd.agents = free;
  };

  evaluated = lib.evalModules {
    modules = [
      module
      {
        options = { inherit darwin home; }.${kind};
        config.services = { inherit peerix; };
      }
    ];
    specialArgs.pkgs = {
      callPackage = _file: _arguments: derivationAt package;
      coreutils = derivationAt "/usr";
      stdenv.hostPlatform = {
        isLinux = system == "linux";
        isDarwin = system == "darwin";
      };
      writeShellScript = _name: text: "script:${text}";
      writeText = _name: text: "text:${text}";
    };
  };
  inherit (evaluated) config;
  values = removeAttrs config.services.peerix [ "package" ];
in
{
  inherit values;
  failed = map (it: it.message) (lib.filter (it: !it.assertion) config.assertions);
  warnings = config.warnings;
  nix = config.nix.settings;
  file = config.environment.etc."peerix/config.toml".text or null;
  launchd = config.launchd.daemons or config.launchd.agents;
  systemd = config.systemd.user or { };
  users = config.users or { };
}
