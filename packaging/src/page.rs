// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Page`]: one manual page, in the language of man(7).

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// A section of the manual (man(1)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    /// Programs for everybody.
    Programs,
    /// Programs for root.
    Administration,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Page {
    command: Command,
    name: String,
    section: Section,
    see: Vec<String>,
}

impl Section {
    fn number(self) -> &'static str {
        match self {
            Self::Programs => "1",
            Self::Administration => "8",
        }
    }
}

impl Page {
    /// The page of `command`, which has been built, under that name. `see` are the pages that it leads to.
    pub(crate) fn new(
        command: Command,
        name: impl Into<String>,
        section: Section,
        see: impl IntoIterator<Item = String>,
    ) -> Self {
        Self { command, name: name.into(), section, see: see.into_iter().collect() }
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.section.number())
    }

    /// The page.
    pub(crate) fn render(&self) -> io::Result<Vec<u8>> {
        let version = self.command.get_version().unwrap_or_default();
        let manual = match self.section {
            Section::Programs => "User Commands",
            Section::Administration => "System Administration",
        };
        // Under NAME whatis(1) wants the name of the page.
        // clap wants names that live for ever, as this process does not.
        let name: &'static str = self.name.clone().leak();
        let command = self.command.clone().name(name).display_name(name);
        let examples = self.command.get_after_help().map(ToString::to_string);
        let man = Man::new(command)
            .title(self.name.to_uppercase())
            .section(self.section.number())
            .source(format!("farwatch {version}"))
            .manual(manual)
            // Without a date the page is the same whenever it is made.
            .date("");
        let mut page = Vec::new();
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if self.command.has_subcommands() {
            man.render_subcommands_section(&mut page)?;
        }
        if let Some(examples) = examples {
            render_extra(&mut page, &examples)?;
        }
        writeln!(page, ".SH \"SEE ALSO\"\n{}", escape(&self.see.join(", ")))?;
        Ok(page)
    }
}

/// What clap shows after the options: examples, in columns of its own, or sentences.
fn render_extra(page: &mut Vec<u8>, text: &str) -> io::Result<()> {
    match text.split_once(":\n") {
        Some((head, lines)) => {
            writeln!(page, ".SH EXAMPLES\n{}:\n.nf", escape(head))?;
            for line in lines.lines() {
                writeln!(page, "{}", escape(line))?;
            }
            writeln!(page, ".fi")
        }
        None => writeln!(page, ".SH NOTES\n{}", escape(text)),
    }
}

/// Text as man(7) takes it: a hyphen is a minus sign, so that an option can be copied, and no line is a request.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_request_and_keeps_its_hyphens() {
        assert_eq!(escape("--log a\\b"), "\\-\\-log a\\\\b");
        assert_eq!(escape(".so /etc/passwd"), "\\&.so /etc/passwd");
    }
}
