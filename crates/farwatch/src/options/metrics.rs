// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--metrics`: an address.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// What comes before the path of a socket.
const UNIX: &str = "unix:";

/// Where metrics are served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MetricsAddr {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket of the file system.
    Unix(PathBuf),
}

/// Why an address was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("give an address and a port, such as 127.0.0.1:9723 or [::1]:9723, or unix:PATH")]
pub(crate) struct MetricsAddrError;

impl FromStr for MetricsAddr {
    type Err = MetricsAddrError;

    fn from_str(text: &str) -> Result<Self, MetricsAddrError> {
        if let Some(path) = text.strip_prefix(UNIX) {
            let Ok::<PathBuf, Infallible>(path) = path.parse();
            return if path.as_os_str().is_empty() {
                Err(MetricsAddrError)
            } else {
                Ok(Self::Unix(path))
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| MetricsAddrError)
    }
}

impl fmt::Display for MetricsAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_read_back_as_it_is_written() {
        for text in ["127.0.0.1:9723", "[::1]:9723", "unix:/run/a b.sock", "unix:relative"] {
            assert_eq!(text.parse::<MetricsAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn address_without_a_port_or_a_path_is_refused() {
        for text in ["", "9723", ":9723", "localhost", "/run/a.sock", "unix:"] {
            assert_eq!(text.parse::<MetricsAddr>(), Err(MetricsAddrError), "{text}");
        }
    }
}
