// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `-o name=value,name`: virtiofsd's first command line, which it still accepts because old management
//! programs use it. These options override the others.

use std::path::PathBuf;

use virtiofsd::passthrough::NegotiationMode;
use virtiofsd::passthrough::xattrmap::XattrMap;
use virtiofsd::sandbox::SandboxMode;

use super::serve::{LogLevel, ServeArgs};
use super::sharing::Cache;

/// Applies the `-o` options to the other options in `args`.
///
/// # Errors
/// One sentence that names the option.
pub(crate) fn apply(args: &mut ServeArgs) -> Result<(), String> {
    let options = std::mem::take(&mut args.compat.compat_options);
    for option in options.iter().flat_map(|list| list.split(',')) {
        let known = match option.split_once('=') {
            Some((name, value)) => set(args, name, value)
                .ok_or_else(|| format!("invalid value '{value}' for '-o {name}'"))?,
            None => switch(args, option),
        };
        if !known {
            return Err(format!("unknown option '-o {option}'"));
        }
    }
    if args.shared_dir.is_none() && !args.compat.print_capabilities {
        return Err("'--shared-dir' or '-o source' is missing".to_owned());
    }
    Ok(())
}

/// Applies `name=value`. `None` for an invalid value, false for an unknown name.
fn set(args: &mut ServeArgs, name: &str, value: &str) -> Option<bool> {
    match name {
        "source" => args.shared_dir = Some(PathBuf::from(value)),
        "xattrmap" => args.files.xattrmap = Some(XattrMap::try_from(value).ok()?),
        "modcaps" => args.isolation.modcaps = Some(value.parse().ok()?),
        "cache" => {
            args.sharing.cache = match value {
                "none" => Cache::Never,
                "auto" => Cache::Auto,
                "always" => Cache::Always,
                "metadata" => Cache::Metadata,
                _ => return None,
            }
        }
        "loglevel" => {
            args.compat.log_level = Some(match value {
                "debug" => LogLevel::Debug,
                "info" => LogLevel::Info,
                "warn" => LogLevel::Warn,
                "err" => LogLevel::Error,
                _ => return None,
            });
        }
        "sandbox" => {
            args.isolation.sandbox = match value {
                "namespace" => SandboxMode::Namespace,
                "chroot" => SandboxMode::Chroot,
                _ => return None,
            }
        }
        _ => return Some(false),
    }
    Some(true)
}

/// Applies a name without a value. False for an unknown name.
fn switch(args: &mut ServeArgs, name: &str) -> bool {
    let negotiated = |on| if on { NegotiationMode::Always } else { NegotiationMode::Never };
    let (name, on) = name.strip_prefix("no_").map_or((name, true), |name| (name, false));
    let files = &mut args.files;
    match (name, on) {
        ("xattr", _) => {
            files.xattr = on;
            args.sharing.no_xattr = !on;
        }
        ("readdirplus", _) => files.no_readdirplus = !on,
        ("writeback", _) => files.writeback = on,
        ("allow_direct_io", _) => files.allow_direct_io = on,
        ("announce_submounts", true) => {
            files.announce_submounts = true;
            files.no_announce_submounts = false;
        }
        ("killpriv_v2", _) => {
            files.killpriv_v2 = on;
            files.no_killpriv_v2 = !on;
        }
        ("posix_acl", _) => files.posix_acl = negotiated(on),
        ("security_label", _) => files.security_label = negotiated(on),
        ("posix_lock" | "flock", false) => {}
        _ => return false,
    }
    true
}
