// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of the log, which every command has.

use clap::{Args, ValueEnum};

/// The environment variable that holds the log filter when `--log` is not given.
pub(crate) const LOG_VARIABLE: &str = "FARWATCH_LOG";
/// The same for `--log-format`.
pub(crate) const LOG_FORMAT_VARIABLE: &str = "FARWATCH_LOG_FORMAT";

/// What to log, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogArgs {
    /// What to log, to standard error: error, warn, info, debug, trace, or a filter such as
    /// `warn,farwatch::watch=debug`
    #[arg(long, global = true, value_name = "FILTER", env = LOG_VARIABLE, default_value = "warn")]
    pub(crate) log: String,
    /// The form of the log, except with --syslog
    #[arg(long, global = true, value_name = "FORMAT", env = LOG_FORMAT_VARIABLE, value_enum)]
    #[arg(default_value_t = LogFormat::Text, hide_short_help = true)]
    pub(crate) log_format: LogFormat,
}

/// `--log-format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
    /// To the systemd journal, with each field apart as FARWATCH_NAME; to standard error if there is none
    Journald,
}

impl LogFormat {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_the_names_that_the_command_line_reads() {
        for format in LogFormat::value_variants() {
            assert_eq!(LogFormat::from_str(format.name(), false), Ok(*format));
        }
    }
}
