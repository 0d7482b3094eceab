//! What the documents say is what there is: tables made from the code, links that lead somewhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use peerix::config::setting::{self, Kind, Setting};

use crate::support::{ROOT, peer::peerix, run, text_of};

/// Set to write what is generated into the documents, in place of comparing: `scripts/docs`.
pub const WRITE: &str = "PEERIX_WRITE_DOCS";

/// Fails unless `generated` stands between the marks `name` of a document.
///
/// With [`WRITE`] set it is put there first.
pub fn assert_generated(document: &str, name: &str, generated: &str) {
    let path = Path::new(ROOT).join(document);
    let text = fs::read_to_string(&path).expect("a document");
    let (begin, end) = (
        format!("<!-- {name}: made by scripts/docs -->\n"),
        format!("<!-- end of {name} -->"),
    );
    let start = text.find(&begin).map(|at| at + begin.len());
    let start = start.unwrap_or_else(|| panic!("{document} has no {begin}"));
    let length = text[start..].find(&end);
    let length = length.unwrap_or_else(|| panic!("{document} has no {end}"));
    let (before, stands) = (&text[..start], &text[start..start + length]);
    if stands == generated {
        return;
    }
    assert!(
        std::env::var_os(WRITE).is_some(),
        "{document}: {name} is not what the code says: run scripts/docs\n{generated}"
    );
    let written = format!("{before}{generated}{}", &text[start + length..]);
    fs::write(&path, written).expect("our own checkout");
}

#[test]
fn the_readme_s_table_of_settings_is_the_daemon_s() {
    let rows = setting::ALL.iter().map(|setting| row(setting));
    let table = format!(
        "| flag | key in the file | default | what |\n|---|---|---|---|\n{}",
        rows.collect::<String>()
    );
    assert_generated("README.md", "settings", &table);
}

fn row(setting: &Setting) -> String {
    let section = match setting.section {
        "" => String::new(),
        section => format!("{section}."),
    };
    // What help says of the default has a column of its own here.
    let (help, said) = match setting.help.split_once(" [default: ") {
        Some((help, rest)) => (help, rest.split(']').next().unwrap_or_default()),
        None => (setting.help, ""),
    };
    let default = match (setting.kind, setting.default, said) {
        (Kind::Switch, _, _) => "off".to_owned(),
        (_, "", said) => said.to_owned(),
        (_, default, _) => format!("`{default}`"),
    };
    format!(
        "| `--{}` | `{section}{}` | {} | {} |\n",
        setting.flag,
        setting.key,
        cell(&default),
        cell(help),
    )
}

/// Text as a cell of a table takes it.
pub fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The documents for users: README.md and what is in `docs`, by their paths.
pub fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(ROOT);
    let mut paths: Vec<PathBuf> = ["README.md", "SECURITY.md", "ARCHITECTURE.md"]
        .map(|name| root.join(name))
        .into();
    let docs = fs::read_dir(root.join("docs")).expect("docs");
    paths.extend(
        docs.map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "md")),
    );
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a document");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The blocks of code of a language.
pub fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    text.split("\n```")
        .filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// What a line of shell calls of ours: the subcommand, and its flags up to a command of its own.
fn calls(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    line.split([';', '|', '&', '$', '(', ')'])
        .filter_map(|command| {
            let mut words = command.split_whitespace().peekable();
            while words
                .next_if(|word| *word == "sudo" || word.contains('='))
                .is_some()
            {}
            let name = words.next()?.trim_start_matches("./result/bin/");
            let mut call: Vec<String> = match name {
                "peerix" => Vec::new(),
                "peerix-iroh" => vec!["daemon".to_owned()],
                "peerix-tracker" => vec!["tracker".to_owned()],
                _ => return None,
            };
            call.extend(words.take_while(|word| *word != "--").map(str::to_owned));
            Some(call)
        })
        .collect()
}

#[test]
fn every_command_in_the_documents_is_one_and_has_its_flags() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut seen = 0;
    for (path, text) in documents() {
        let lines = blocks(&text, "sh").into_iter().flat_map(str::lines);
        for call in lines.flat_map(calls) {
            let is_name = |word: &&String| {
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            };
            // `key generate` and `store stats` are two words.
            let depth =
                1 + usize::from(call.first().is_some_and(|it| it == "key" || it == "store"));
            let command: Vec<String> = call
                .iter()
                .take(depth)
                .take_while(is_name)
                .cloned()
                .collect();
            let help = helps.entry(command.clone()).or_insert_with(|| {
                let output = run(peerix(home.path()).args(&command).arg("--help"));
                assert!(output.status.success(), "{}: {call:?}", path.display());
                text_of(&output)
            });
            for flag in call.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap_or_default();
                assert!(
                    help.contains(flag),
                    "{}: `peerix {}` has no {flag}",
                    path.display(),
                    command.join(" ")
                );
            }
            seen += 1;
        }
    }
    assert!(seen >= 15, "only {seen} commands were found");
}

#[test]
fn every_link_in_the_documents_leads_to_a_file() {
    for (path, text) in documents() {
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let target = path.parent().unwrap_or(Path::new(ROOT)).join(file);
            assert!(target.exists(), "{}: {link}", path.display());
        }
    }
}
