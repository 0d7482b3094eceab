//! `peerix man`: manual pages, made from the same definitions as `--help`.

use std::{fs, io, path::PathBuf};

use clap::Args;
use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};

use super::{Exit, Failure, output};
use crate::config::{
    example,
    reload::is_reloaded,
    setting::{Kind, Setting},
};

const EXAMPLES: &str = "\
Examples:
  peerix man --out /usr/local/share/man
      then: man peerix, man peerix-share, man peerix.toml";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ManArgs {
    /// Write the pages to DIR/man1 and DIR/man5
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: PathBuf,
    /// List what was written in JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ManArgs, command: clap::Command) -> Result<Exit, Failure> {
    let pages = pages(command)?;
    let mut written = Vec::new();
    for page in pages {
        let directory = args.out.join(format!("man{}", page.section));
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{}.{}", page.name, page.section));
        fs::write(&path, page.text)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        written.push(path);
    }
    match args.json {
        true => output::json(&written)?,
        false => output::hint(&format!(
            "{} in {}",
            output::count(written.len() as u64, "page"),
            args.out.display()
        )),
    }
    Ok(Exit::Done)
}

/// Longest line with a colon at its end that is a heading, in bytes; longer ones are sentences.
const LONGEST_HEADING: usize = 20;

struct Page {
    name: String,
    section: u8,
    text: Vec<u8>,
}

fn pages(mut command: clap::Command) -> io::Result<Vec<Page>> {
    command.build();
    let mut pages = Vec::new();
    add(&mut pages, &command)?;
    pages.push(Page {
        name: "peerix.toml".to_owned(),
        section: 5,
        text: configuration()?,
    });
    Ok(pages)
}

fn add(pages: &mut Vec<Page>, command: &clap::Command) -> io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    pages.push(Page {
        text: page(command, &name)?,
        name,
        section: 1,
    });
    command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .try_for_each(|inner| add(pages, inner))
}

fn page(command: &clap::Command, name: &str) -> io::Result<Vec<u8>> {
    let source = format!("peerix {}", crate::VERSION);
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .source(source)
        .manual("peerix");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command
        .get_arguments()
        .any(|argument| !argument.is_hide_set())
    {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let after = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    if let Some(after) = after {
        further(&after.to_string()).to_writer(&mut text)?;
    }
    see_also(name).to_writer(&mut text)?;
    Ok(text)
}

/// What follows the options in help: a line that ends with a colon at the margin is a heading, what
/// is indented below stays as it is, and the rest is text.
fn further(help: &str) -> Roff {
    let mut roff = Roff::new();
    let mut is_kept = false;
    for line in help.lines() {
        let is_indented = line.starts_with(' ');
        if is_kept != is_indented && !line.is_empty() {
            roff.control(if is_indented { "nf" } else { "fi" }, []);
            is_kept = is_indented;
        }
        match line.strip_suffix(':') {
            Some(heading) if !is_indented && heading.len() < LONGEST_HEADING => {
                roff.control("SH", [heading.to_uppercase().as_str()]);
            }
            _ if line.is_empty() && !is_kept => {
                roff.control("PP", []);
            }
            _ => {
                roff.text([roman(line)]);
            }
        }
    }
    if is_kept {
        roff.control("fi", []);
    }
    roff
}

fn see_also(name: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let others = ["peerix(1)", "peerix-daemon(1)", "peerix.toml(5)"];
    let others: Vec<&str> = others
        .into_iter()
        .filter(|other| other.split('(').next() != Some(name))
        .collect();
    roff.text([roman(others.join(", "))]);
    roff
}

/// `peerix.toml(5)`, from the table of settings.
fn configuration() -> io::Result<Vec<u8>> {
    let mut roff = Roff::new();
    let source = format!("peerix {}", crate::VERSION);
    roff.control("TH", ["PEERIX.TOML", "5", "", &source, "peerix"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("peerix.toml - configuration of the peerix daemon")]);
    roff.control("SH", ["FILES"]);
    for file in [
        "/etc/peerix/config.toml",
        "~/.config/peerix/config.toml, or the file that --config or PEERIX_CONFIG names",
    ] {
        roff.control("PP", []);
        roff.text([italic(file)]);
    }
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "TOML. Every key has a flag of peerix-daemon(1) and a variable. In rising order of weight: \
         the default, /etc/peerix/config.toml, the user's file, the variable, the flag; lists are \
         replaced, not joined. An unknown key is an error that names the nearest known one. \
         peerix check-config prints what all of it comes to, and where each value came from; \
         peerix check-config --example prints a file with every key. \
         Keys marked as reloaded take effect when the daemon gets SIGHUP, the others when it starts.",
    )]);
    let mut section = None;
    for (of, key, setting) in example::sorted_keys() {
        if section != Some(of) {
            let heading = match of {
                "" => "KEYS BEFORE ANY SECTION".to_owned(),
                of => format!("KEYS OF [{of}]"),
            };
            roff.control("SH", [heading.as_str()]);
            section = Some(of);
        }
        roff.control("TP", []);
        roff.text([bold(key), roman(format!(" ({})", form(setting)))]);
        let mark = if is_reloaded(setting) {
            " Reloaded."
        } else {
            ""
        };
        roff.text([roman(format!(
            "{}. Default: {}.{mark} Flag: --{}. Variable: {}.",
            setting.help,
            example::default_of(setting),
            setting.flag,
            setting.variable(),
        ))]);
    }
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    see_also("peerix.toml").to_writer(&mut text)?;
    Ok(text)
}

fn form(setting: &Setting) -> &'static str {
    match setting.kind {
        Kind::Text => "string",
        Kind::Number => "number",
        Kind::Duration => "seconds, or a string such as \"10min\"",
        Kind::Size => "string such as \"5MB\", or bytes",
        Kind::Switch => "true or false",
        Kind::List => "list of strings",
    }
}
