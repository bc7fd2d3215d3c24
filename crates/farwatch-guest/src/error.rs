// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Error`](enum@Error): why an agent cannot work on a mount. A replay that fails is none of these: it is
//! counted and the next one is done.

use std::io;

use farwatch_proto::wire::control::FrameError;
use rustix::io::Errno;
use thiserror::Error;

/// What an agent's caller tells its user.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No mount root could be had.
    #[error("cannot open the mount for replay (this needs root)")]
    Root(#[source] Errno),
    /// There is nothing at the path.
    #[error("no such directory: name a mount point, or a tag without a slash")]
    NoDirectory(#[source] Errno),
    /// Another file system.
    #[error("not a virtiofs mount: name the mount point of one, or its tag without a slash")]
    NotFuse,
    /// The kernel has no virtiofs.
    #[error("this kernel has no virtiofs: load the module `virtiofs`")]
    NoVirtiofs(#[source] Errno),
    /// No device with this tag.
    #[error(
        "no virtio-fs device with this tag can be mounted: compare it with the tag that the \
        virtual machine was started with"
    )]
    NoTag(#[source] Errno),
    /// Every replay would fail with EROFS.
    #[error(
        "mounted read-only, where the kernel raises no events: mount it read-write, \
        and share it with `farwatch serve --readonly` or bind-mount it read-only for programs"
    )]
    ReadOnly,
    /// The thread could not take on the marks.
    #[error("cannot set the tags of the agent's thread (this needs root)")]
    Marks(#[source] farwatch_sys::Error),
    /// The control node cannot be opened.
    #[error(
        "no farwatch server behind this mount, so there are no events: on the host, start \
        `farwatch serve` in place of virtiofsd"
    )]
    NoControlNode(#[source] farwatch_sys::Error),
    /// Another agent has it, or the kernel that has the mount needs none.
    #[error(
        "another agent serves this mount: stop it first; or the kernel raises the events itself, and \
        needs no agent"
    )]
    Busy,
    /// The exchange of hello and welcome failed.
    #[error("the server does not answer on the control node")]
    Control(#[source] io::Error),
    /// The server speaks another version.
    #[error(
        "the server's welcome message is malformed: use the same version of farwatch on both sides"
    )]
    Welcome(#[source] FrameError),
    /// The proof failed.
    #[error("the server does not see the agent's tags on its requests: nothing is replayed")]
    NotProved,
    /// The notifications end with an error.
    #[error("receiving notifications failed")]
    Receive(#[source] io::Error),
}
