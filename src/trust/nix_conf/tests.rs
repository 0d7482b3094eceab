use std::fs;

use tempfile::TempDir;

use super::*;

const A: &str = "a-1:ySHE64U3am04Omdj/HKI83vIJS+oAMIqv5g73MUbYYM=";
const B: &str = "b-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

struct Files {
    directory: TempDir,
    conf: NixConf,
}

impl Files {
    fn new(system: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let conf = NixConf {
            system: directory.path().join("nix.conf"),
            ..NixConf::default()
        };
        let files = Self { directory, conf };
        files.write("nix.conf", system);
        files
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let read = self.conf.trusted_public_keys();
        assert_eq!(read.problems, Vec::<String>::new());
        read.keys.into_iter().map(|key| key.name).collect()
    }
}

#[test]
fn without_any_file_the_key_of_cache_nixos_org_is_trusted() {
    let conf = NixConf {
        system: "/does/not/exist".into(),
        ..NixConf::default()
    };
    let read = conf.trusted_public_keys();
    assert_eq!(read.problems, Vec::<String>::new());
    assert_eq!(read.keys, [DEFAULT_PUBLIC_KEY.parse().unwrap()]);
}

#[test]
fn who_may_have_whom_asked_is_read_too() {
    let files = Files::new(
        "trusted-users = root @wheel\nextra-substituters = http://a\nbinary-caches = http://b\n\
         extra-substituters = http://c\ntrusted-substituters = http://d\n",
    );
    let settings = files.conf.settings();
    assert_eq!(settings.trusted_users, ["root", "@wheel"]);
    assert_eq!(settings.substituters, ["http://b", "http://c"]);
    assert_eq!(settings.trusted_substituters, ["http://d"]);
    assert_eq!(NixConf::default().settings().trusted_users, ["root"]);
}

#[test]
fn a_setting_replaces_what_was_before_and_an_extra_one_adds() {
    let files = Files::new(&format!(
        "# {B}\ncores = 2\ntrusted-public-keys = {A} # {B}\n"
    ));
    assert_eq!(files.names(), ["a-1"]);
    files.write(
        "nix.conf",
        format!("\textra-trusted-public-keys =  {A}\t{B}\n"),
    );
    assert_eq!(files.names(), ["cache.nixos.org-1", "a-1", "b-1"]);
    files.write(
        "nix.conf",
        format!("extra-trusted-public-keys = {A}\ntrusted-public-keys = {B}"),
    );
    assert_eq!(files.names(), ["b-1"]);
    files.write("nix.conf", format!("binary-cache-public-keys = {A}\r\n"));
    assert_eq!(files.names(), ["a-1"]);
    files.write("nix.conf", "trusted-public-keys =\n");
    assert!(files.names().is_empty());
}

#[test]
fn includes_are_read_in_place_and_relative_to_the_file() {
    let files = Files::new("include more.conf\n!include absent.conf\n");
    files.write("more.conf", format!("trusted-public-keys = {A}\n"));
    assert_eq!(files.names(), ["a-1"]);
    files.write(
        "nix.conf",
        format!("include more.conf\ntrusted-public-keys = {B}\n"),
    );
    assert_eq!(files.names(), ["b-1"]);
    files.write(
        "nix.conf",
        format!("trusted-public-keys = {B}\n!include more.conf\n"),
    );
    assert_eq!(files.names(), ["a-1"]);
}

#[test]
fn user_files_and_nix_config_come_after_the_system_s_file() {
    let mut files = Files::new(&format!("trusted-public-keys = {A}\n"));
    let important = files.write("important", format!("extra-trusted-public-keys = {B}\n"));
    let lesser = files.write(
        "lesser",
        format!("trusted-public-keys = {DEFAULT_PUBLIC_KEY}\n"),
    );
    files.conf.user = vec![important, "/does/not/exist".into(), lesser];
    assert_eq!(files.names(), ["cache.nixos.org-1", "b-1"]);
    files.conf.inline = Some(format!("cores = 1\nextra-trusted-public-keys = {A}"));
    assert_eq!(files.names(), ["cache.nixos.org-1", "b-1", "a-1"]);
}

#[test]
fn the_first_key_of_a_name_counts() {
    let again = B.replace("b-1", "a-1");
    let files = Files::new(&format!("trusted-public-keys = {A} {again}\n"));
    let read = files.conf.trusted_public_keys();
    assert_eq!(read.keys, [A.parse().unwrap()]);
}

#[test]
fn what_nix_would_refuse_is_named_and_the_rest_is_read() {
    let text =
        format!("what is this\ninclude absent.conf\ntrusted-public-keys = junk {A} x:AAAA\n");
    let files = Files::new(&text);
    let read = files.conf.trusted_public_keys();
    assert_eq!(read.keys, [A.parse().unwrap()]);
    assert_eq!(read.problems.len(), 4, "{:?}", read.problems);
    assert!(read.problems[0].ends_with("nix.conf: not a setting: what is this"));
    assert!(read.problems[1].contains("absent.conf: "));
    assert!(read.problems[2].starts_with("trusted-public-keys: junk: "));
}

#[test]
fn a_circle_of_includes_ends() {
    let files = Files::new("include nix.conf\n");
    let read = files.conf.trusted_public_keys();
    assert_eq!(read.keys.len(), 1);
    assert_eq!(read.problems.len(), 1);
}

#[test]
fn bytes_that_are_no_text_cost_no_key() {
    let files = Files::new("");
    let mut bytes = b"# gr\xfc\xdfe\n".to_vec();
    bytes.extend_from_slice(format!("trusted-public-keys = {A}\n").as_bytes());
    files.write("nix.conf", bytes);
    assert_eq!(files.names(), ["a-1"]);
}

#[test]
fn the_files_are_where_nix_looks() {
    let find = |variables: &'static [(&'static str, &'static str)]| {
        NixConf::from_variables(move |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        })
    };
    assert_eq!(
        find(&[("HOME", "/home/a")]),
        NixConf {
            system: "/etc/nix/nix.conf".into(),
            user: vec![
                "/home/a/.config/nix/nix.conf".into(),
                "/etc/xdg/nix/nix.conf".into()
            ],
            inline: None,
        }
    );
    let found = find(&[
        ("HOME", "/home/a"),
        ("XDG_CONFIG_HOME", "/c"),
        ("XDG_CONFIG_DIRS", "/x:/y"),
        ("NIX_CONF_DIR", "/n"),
        ("NIX_CONFIG", "cores = 1"),
    ]);
    let user = ["/c/nix/nix.conf", "/x/nix/nix.conf", "/y/nix/nix.conf"].map(PathBuf::from);
    assert_eq!(
        (found.system, found.user),
        ("/n/nix.conf".into(), user.into())
    );
    assert_eq!(found.inline.as_deref(), Some("cores = 1"));
    let found = find(&[("HOME", "/home/a"), ("NIX_USER_CONF_FILES", "/a:/b")]);
    assert_eq!(found.user, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(
        find(&[("NIX_USER_CONF_FILES", "")]).user,
        Vec::<PathBuf>::new()
    );
}
