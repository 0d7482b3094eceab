# services.peerix for nix-darwin: the daemon under launchd, and Nix told to ask it.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  inherit (lib) mkIf mkOption types;

  cfg = config.services.peerix;
  daemon = import ./daemon-config.nix { inherit lib cfg options; };

  stateDir = "/var/lib/peerix";
  runtimeDir = "/var/run/peerix";
  logFile = "/var/log/peerix.log";
  configPath = "/etc/peerix/config.toml";

  # launchd starts it as root, who makes the directory of the control socket and gives up being root
  # for good: macOS' chroot(8) does that without a process in between.
  start = pkgs.writeShellScript "peerix-daemon" ''
    set -e
    /usr/bin/install -d -o ${cfg.user} -g ${cfg.user} -m 0700 ${stateDir}
    /usr/bin/install -d -o ${cfg.user} -g ${cfg.user} -m 0755 ${runtimeDir}
    export STATE_DIRECTORY=${stateDir} RUNTIME_DIRECTORY=${runtimeDir}
    ${lib.optionalString (daemon.laterKeyFile != null) "key=$(<${lib.escapeShellArg daemon.laterKeyFile})"}
    exec /usr/sbin/chroot -u ${cfg.user} -g ${cfg.user} / ${
      if daemon.laterKeyFile == null then
        lib.escapeShellArgs (daemon.command configPath)
      else
        daemon.commandWithKey configPath
    }
  '';
in
{
  options.services.peerix = import ./options.nix { inherit lib pkgs; } // {
    user = mkOption {
      type = types.str;
      default = "_peerix";
      description = "User, and group of the same name, that it runs as. They are made where this is the default.";
    };

    uid = mkOption {
      type = types.int;
      default = 412;
      description = "Id of that user and group, where they are made.";
    };
  };

  config = mkIf cfg.enable {
    inherit (daemon) assertions warnings;

    services.peerix.settings = daemon.defaultsWithSecretFiles;

    environment.etc."peerix/config.toml".text = daemon.text;
    environment.systemPackages = [ cfg.package ];
    nix.settings = daemon.nixSettings;

    users = mkIf (cfg.user == "_peerix") {
      knownUsers = [ cfg.user ];
      knownGroups = [ cfg.user ];
      groups.${cfg.user}.gid = cfg.uid;
      users.${cfg.user} = {
        inherit (cfg) uid;
        gid = cfg.uid;
        home = stateDir;
        shell = "/usr/bin/false";
        isHidden = true;
        description = "peerix";
      };
    };

    launchd.daemons.peerix.serviceConfig = {
      # /nix may be mounted after launchd starts this.
      ProgramArguments = [
        "/bin/sh"
        "-c"
        "/bin/wait4path ${start} && exec ${start}"
      ];
      RunAtLoad = true;
      KeepAlive = true;
      ProcessType = "Background";
      StandardErrorPath = logFile;
      SoftResourceLimits.NumberOfFiles = 65536;
      HardResourceLimits.NumberOfFiles = 65536;
      # The daemon ends within ten seconds.
      ExitTimeOut = 20;
    };

    # A rebuild of the system brings new paths, and SIGHUP has the daemon look; so does a changed
    # configuration have it start again.
    launchd.daemons.peerix-rescan.serviceConfig = {
      ProgramArguments = [
        "/bin/launchctl"
        "kill"
        "HUP"
        "system/${config.launchd.labelPrefix}.peerix"
      ];
      WatchPaths = [ "/run/current-system" ];
    };
    launchd.daemons.peerix-configured.serviceConfig = {
      ProgramArguments = [
        "/bin/launchctl"
        "kickstart"
        "-k"
        "system/${config.launchd.labelPrefix}.peerix"
      ];
      WatchPaths = [ configPath ];
    };
  };
}
