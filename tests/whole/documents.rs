//! What the documents say is what there is: tables made from the code, links that lead somewhere.

use std::{fs, path::Path};

use peerix::config::setting::{self, Kind, Setting};

use crate::support::ROOT;

/// Set to write what is generated into the documents, in place of comparing: `scripts/docs`.
const WRITE: &str = "PEERIX_WRITE_DOCS";

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
