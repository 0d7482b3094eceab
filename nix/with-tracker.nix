# Two machines that have nothing in common but a tracker: the second one's Nix gets a path from the
# first, signed by a key that both know.
{ module, package }:

let
  # Made for this test alone: `nix-store --generate-binary-cache-key test-1 secret public`.
  keys = {
    secret = "test-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA==";
    public = "test-1:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=";
  };
  machine =
    { lib, ... }:
    {
      imports = [ module ];
      services.peerix = {
        enable = true;
        inherit package;
        trackerUrl = "http://tracker:12305";
        allowInsecureHttp = true;
        # No address of the outside is asked for anything.
        relays = [ "off" ];
        upstreamCache = null;
        publicKey = keys.public;
        publicCacheKeys = [ keys.public ];
      };
      nix.settings.substituters = lib.mkForce [ ];
      virtualisation.writableStore = true;
    };
in
{
  name = "peerix-with-tracker";

  nodes = {
    tracker = {
      imports = [ module ];
      services.peerix-tracker = {
        enable = true;
        inherit package;
      };
    };
    first = machine;
    second = machine;
  };

  testScript = ''
    start_all()
    tracker.wait_for_unit("peerix-tracker.service")
    tracker.wait_for_open_port(12305)
    for machine in first, second:
        machine.wait_for_unit("peerix.service")
        machine.wait_for_open_port(12304, "127.0.0.1")

    # Built, not added: a path that proves itself by its content would need no signature.
    first.succeed("printf '%s' '${keys.secret}' >/root/key && chmod 600 /root/key")
    path = first.succeed(
        "nix-build --no-out-link --option sandbox false --expr "
        "'derivation { name = \"hello\"; system = builtins.currentSystem; "
        "builder = \"/bin/sh\"; args = [ \"-c\" \"echo Hello from the first. >$out\" ]; }'"
    ).strip()
    first.succeed(f"nix --extra-experimental-features nix-command store sign -k /root/key {path}")

    part = path.removeprefix("/nix/store/").split("-")[0]
    second.wait_until_succeeds(f"curl --fail --silent http://127.0.0.1:12304/{part}.narinfo")
    second.succeed(f"nix-store --realise {path}")
    assert "Hello" in second.succeed(f"cat {path}")

    with subtest("nothing depends on the tracker"):
        tracker.crash()
        second.succeed("curl --fail --silent http://127.0.0.1:12304/nix-cache-info")
        second.succeed("systemctl restart peerix.service")
        second.wait_for_unit("peerix.service")
  '';
}
