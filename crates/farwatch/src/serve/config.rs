// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the command line to the file server library's settings.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use virtiofsd::limits::setup_rlimit_nofile;
use virtiofsd::passthrough::{
    CachePolicy, Config, InodeFileHandlesMode, MigrationMode, MigrationOnError,
};

use super::sandbox::Inside;
use crate::limits;
use crate::options::{Cache, Defaults, InodeFileHandles, ServeArgs};
use crate::share::DIRS_OPEN_MAX;

/// Descriptors that the library leaves to the device: one for each of 509 memory regions, as many as
/// a vhost-user client can have, and some.
const DEVICE_FDS: u64 = 509 + 100;
/// Sets RLIMIT_NOFILE, the last limit that is set here. Returns how many descriptors the guest's files may have.
///
/// # Errors
/// When the limit that was asked for cannot be set, or leaves nothing for the guest.
pub(super) fn limit_files(args: &ServeArgs) -> anyhow::Result<u64> {
    let limit = setup_rlimit_nofile(args.isolation.rlimit_nofile)
        .map_err(|error| anyhow!("the limit of open files cannot be set: {error}"))?;
    limits::hold();
    let reserve = DEVICE_FDS + u64::from(args.sharing.request_queues);
    let left = limit.checked_sub(reserve).filter(|left| *left > 0).with_context(|| {
        format!("{limit} open files are not enough: the device alone needs {reserve}")
    })?;
    let left = left - u64::try_from(DIRS_OPEN_MAX).unwrap_or(u64::MAX).min(left / 2);
    if left < 128 {
        tracing::warn!(left, "very few files can be open in the guest: raise --rlimit-nofile");
    }
    Ok(left)
}

/// The settings. Nothing is opened.
pub(super) fn config(
    args: &ServeArgs,
    defaults: Defaults,
    inside: &mut Inside,
    guest_fd_limit: u64,
) -> Config {
    const DAY: Duration = Duration::from_secs(86_400);
    let (cache_policy, timeout) = match args.sharing.cache {
        Cache::Never => (CachePolicy::Never, Duration::ZERO),
        Cache::Metadata => (CachePolicy::Metadata, DAY),
        // What events keep true is kept longer: that is decided for each reply, in `fs`.
        Cache::Auto | Cache::Events => (CachePolicy::Auto, Duration::from_secs(1)),
        Cache::Always => (CachePolicy::Always, DAY),
    };
    let inode_file_handles = match args.files.inode_file_handles {
        InodeFileHandles::Never => InodeFileHandlesMode::Never,
        InodeFileHandles::Prefer => InodeFileHandlesMode::Prefer,
        InodeFileHandles::Mandatory => InodeFileHandlesMode::Mandatory,
    };
    let (files, migration) = (&args.files, &args.migration);
    Config {
        entry_timeout: timeout,
        attr_timeout: timeout,
        readdirplus: args.sharing.cache != Cache::Never && !files.no_readdirplus,
        cache_policy,
        root_dir: inside.root_dir.clone(),
        mountinfo_prefix: inside.mountinfo_prefix.clone(),
        proc_sfd_rawfd: inside.proc_self_fd.take(),
        proc_mountinfo_rawfd: inside.mountinfo.take(),
        xattr: args.xattr(defaults),
        xattrmap: files.xattrmap.clone(),
        posix_acl: files.posix_acl,
        security_label: files.security_label,
        announce_submounts: args.announces_submounts(defaults),
        inode_file_handles,
        writeback: files.writeback,
        allow_direct_io: files.allow_direct_io,
        allow_mmap: files.allow_mmap,
        killpriv_v2: args.kills_privileges(defaults),
        clean_noatime: !files.preserve_noatime,
        migration_mode: migration.migration_mode,
        // What the host has deleted or moved in the meantime ends no migration: it happens all the time. That open files
        // are lost is what the interposer prevents.
        migration_on_error: MigrationOnError::GuestError,
        migration_verify_handles: migration.migration_verify_handles,
        // The host goes on renaming while the memory of the machine is sent.
        migration_confirm_paths: migration.migration_mode == MigrationMode::FindPaths,
        uid_map: Some(args.ids.translate_uid.clone()),
        gid_map: Some(args.ids.translate_gid.clone()),
        guest_fd_limit,
        ..Config::default()
    }
}
