//! Examples in the help of commands that take no words of their own.

pub(super) const SHARED: &str = "\
Examples:
  peerix shared
  peerix shared --json | jq -r '.[].store_path'";

pub(super) const TICKET: &str = "\
Examples:
  peerix ticket
      on another machine: peerix daemon --peer TICKET";

pub(super) const STATUS: &str = "\
Examples:
  peerix status
  peerix status --json | jq .connected_peers";

pub(super) const PEERS: &str = "\
Examples:
  peerix peers
  peerix peers --json | jq '.peers[] | select(.connected)'";

pub(super) const RESUME: &str = "\
Examples:
  peerix resume
      ends what `peerix pause` began";

pub(super) const VERIFY: &str = "\
Examples:
  peerix verify
      after a disk was in trouble; it reads all that peers are given, and may take long";

pub(super) const UNSHARE: &str = "\
Examples:
  peerix unshare ./result";

pub(super) const FORGET: &str = "\
Examples:
  peerix forget /nix/store/...-hello-2.12
      what was downloaded of it goes, and its hash is computed anew when it is asked for";

pub(super) const SCAN: &str = "\
Examples:
  peerix scan
      at once, where --scan-interval is long
  peerix scan --pause";

pub(super) const STORE_STATS: &str = "\
Examples:
  peerix store stats
  peerix store stats --json | jq .downloads_bytes";

pub(super) const KEY_GENERATE: &str = "\
Examples:
  peerix key generate --state-dir ./laptop7
  peerix key generate --output ./cache.key --name cache.example.org-1";

pub(super) const KEY_SHOW: &str = "\
Examples:
  peerix key show
  peerix key show --file ./cache.key";

pub(super) const KEY_ROTATE: &str = "\
Examples:
  peerix key rotate
      a new signing key, of the next number; the machine stays the same endpoint
  peerix key rotate --identity";
