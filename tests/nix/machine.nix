# Evaluates module.nix as a NixOS machine does, without the rest of NixOS: its module system is
# nixpkgs', the options that the module sets are declared here, and no others, so that whatever
# else it sets is an error. Units are rendered as NixOS renders them.
{
  lib,
  module,
  # The configuration of services.peerix, and of services.peerix-tracker.
  peerix,
  tracker ? { },
  # A directory with bin/peerix.
  package,
}:

let
  inherit (lib) mkOption types;
  inherit (evaluated) config;

  free = mkOption {
    type = types.attrsOf types.anything;
    default = { };
  };
  ports = mkOption {
    type = types.listOf types.port;
    default = [ ];
  };

  system = {
    options = {
      assertions = mkOption { type = types.listOf types.anything; };
      warnings = mkOption {
        type = types.listOf types.str;
        default = [ ];
      };
      environment.etc = free;
      environment.systemPackages = mkOption { type = types.listOf types.package; };
      networking.firewall.allowedTCPPorts = ports;
      networking.firewall.allowedUDPPorts = ports;
      nix.settings = free;
      systemd.package = mkOption { default = derivationAt "/usr"; };
      systemd.paths = free;
      systemd.services = free;
      systemd.sockets = free;
      users.groups = free;
    };
    config.services = {
      inherit peerix;
      peerix-tracker = tracker;
    };
  };

  # As much of a derivation as types.package asks for.
  derivationAt = outPath: {
    type = "derivation";
    name = "at-${baseNameOf outPath}";
    inherit outPath;
  };

  evaluated = lib.evalModules {
    modules = [
      module
      system
    ];
    specialArgs.pkgs = {
      callPackage = _file: _arguments: derivationAt package;
      coreutils = derivationAt "/usr";
      writeShellScript = _name: text: "script:${text}";
    };
  };

  # What is to be known of the options of one service.
  optionsOf =
    service:
    let
      own = evaluated.options.services.${service};
      names = lib.filter (name: name != "_module") (lib.attrNames own);
    in
    {
      # Every option, forced.
      values = lib.genAttrs names (
        name:
        let
          value = config.services.${service}.${name};
        in
        if name == "package" then value.outPath else value
      );
      # As far as they can be written as JSON.
      defaults = lib.genAttrs (lib.remove "package" names) (name: own.${name}.default);
      descriptions = lib.genAttrs names (name: own.${name}.description);
    };

  word = value: if lib.isBool value then lib.boolToString value else toString value;
  line = name: value: "${name}=${word value}\n";
  lines =
    section:
    lib.concatStrings (
      lib.mapAttrsToList (
        name: value: if lib.isList value then lib.concatMapStrings (line name) value else line name value
      ) section
    );
  section = name: body: "[${name}]\n${lines body}\n";
  words = lib.concatStringsSep " ";

  unit =
    kind: definition:
    section "Unit" (
      lib.filterAttrs (_name: value: value != "") {
        Description = definition.description;
        Documentation = words (definition.documentation or [ ]);
        Wants = words (definition.wants or [ ]);
        Requires = words (definition.requires or [ ]);
        After = words (definition.after or [ ]);
      }
    )
    + section kind definition."${lib.toLower kind}Config"
    + lib.optionalString (definition ? wantedBy) (
      section "Install" { WantedBy = words definition.wantedBy; }
    );
  units =
    suffix: kind: definitions:
    lib.mapAttrs' (name: definition: lib.nameValuePair "${name}.${suffix}" (unit kind definition)) definitions;
in
{
  inherit (config) warnings;
  failed = map (it: it.message) (lib.filter (it: !it.assertion) config.assertions);
  file = config.environment.etc."peerix/config.toml".text or null;
  firewall = {
    tcp = config.networking.firewall.allowedTCPPorts;
    udp = config.networking.firewall.allowedUDPPorts;
  };
  nix = config.nix.settings;
  groups = lib.attrNames config.users.groups;
  units =
    units "service" "Service" config.systemd.services
    // units "socket" "Socket" config.systemd.sockets
    // units "path" "Path" config.systemd.paths;
  exec = lib.mapAttrs (_name: service: service.serviceConfig.ExecStart) config.systemd.services;
  options = lib.genAttrs [
    "peerix"
    "peerix-tracker"
  ] optionsOf;
}
