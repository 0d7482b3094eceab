# Two machines on one network and nothing else: the second one's Nix gets a path from the first.
{ module, package }:

{
  name = "peerix-two-machines";

  nodes =
    let
      machine =
        { lib, ... }:
        {
          imports = [ module ];
          services.peerix = {
            enable = true;
            inherit package;
            trackerUrl = null;
          };
          nix.settings.substituters = lib.mkForce [ ];
          virtualisation.writableStore = true;
        };
    in
    {
      first = machine;
      second = machine;
    };

  testScript = ''
    start_all()
    for machine in first, second:
        machine.wait_for_unit("peerix.service")
        machine.wait_for_open_port(12304, "127.0.0.1")

    first.succeed("mkdir /tmp/made && echo 'Hello from the first machine.' >/tmp/made/hello")
    # It proves itself by its content: no key is needed.
    path = first.succeed("nix-store --add /tmp/made").strip()
    first.succeed(f"peerix share --yes {path}")

    part = path.removeprefix("/nix/store/").split("-")[0]
    second.wait_until_succeeds(f"curl --fail --silent http://127.0.0.1:12304/{part}.narinfo")
    second.succeed(f"nix-store --realise {path}")
    assert "Hello" in second.succeed(f"cat {path}/hello")

    with subtest("Nix meets no refused connection while the daemon restarts"):
        second.succeed("systemctl stop peerix.service")
        second.succeed("curl --fail --silent http://127.0.0.1:12304/nix-cache-info")
        second.wait_for_unit("peerix.service")

    with subtest("a reload has the daemon look through the store"):
        second.succeed("systemctl reload peerix.service")
        second.succeed("systemctl start peerix-rescan.service")
  '';
}
