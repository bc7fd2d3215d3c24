// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`serve`]: one vhost-user session after the other on one listening socket.
//!
//! A session begins when a frontend connects and ends when it goes away; what the guest knew is
//! forgotten, and the next one may connect. One that connects during a session waits in the
//! socket's backlog. Called by `main`, for `farwatch serve` with a socket that it has bound and for
//! the child of `farwatch mount` with one that it has inherited (then `once`: no second session).
//!
//! vhost-user-backend 0.22 has no way to end a session from this side (0.23 has
//! `request_shutdown`). So a stop during a session leaves the library's threads behind, idle: no
//! request runs any more and none will, and the caller is about to exit. The library's own event for the end of a queue's
//! thread it never closes, one for each queue and session. So there is none, and [`QueuesEnd`] ends the threads.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::{io, thread};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tracing::{info, warn};
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Device, Memory, SESSION_END};

/// Why [`serve`] came to an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// [`StopHandle::stop`] was called.
    Stopped,
    /// The frontend went away and was to be the only one.
    Disconnected,
}

/// Serving is not possible (any more).
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listening socket, or what is needed to wait for it.
    #[error("cannot wait for a frontend")]
    Wait(#[from] io::Error),
    /// The library's threads or its connection. (Its error is no `std::error::Error`.)
    #[error("cannot start a session: {0}")]
    Start(String),
    /// The only frontend broke the protocol. Where others may follow, this is a warning.
    #[error("the frontend broke the vhost-user protocol: {0}")]
    Protocol(String),
}

/// Ends [`serve`] from another thread. Clones end the same one.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<OwnedFd>);

impl StopHandle {
    /// A handle that has not been used yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Asks for the end: requests that run are finished, no other begins. Called by the thread that
    /// waits for signals.
    pub fn stop(&self) {
        // Fails only when the counter is full: then it has been asked for.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Serves frontends that connect to `listener`: one if `once`, else until it is stopped.
///
/// After a stop the device serves nobody any more.
pub fn serve<F>(
    listener: &UnixListener,
    device: &Arc<Device<F>>,
    once: bool,
    stop: &StopHandle,
) -> Result<Ended, ServeError>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    // The library spins on a socket that does not block.
    listener.set_nonblocking(false)?;
    let mut acceptor = Listener::from(listener.try_clone()?);
    loop {
        if !wait_for(listener, stop)? {
            return Ok(Ended::Stopped);
        }
        let memory = GuestMemoryAtomic::new(Memory::new());
        let end_of_queues = QueuesEnd::new()?;
        let mut daemon = VhostUserDaemon::new("vhost_user".to_owned(), Arc::clone(device), memory)
            .map_err(|error| ServeError::Start(error.to_string()))?;
        end_of_queues.ends(&daemon)?;
        device.begin_session();
        daemon.start(&mut acceptor).map_err(|error| ServeError::Start(error.to_string()))?;
        info!("a frontend has connected");

        // Its end is closed when the thread ends, however that comes about.
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let session = {
            let device = Arc::clone(device);
            thread::Builder::new().name("session".to_owned()).spawn(move || {
                let _end = end;
                run_session(daemon, &device, &end_of_queues)
            })?
        };
        if !wait_for(&ended, stop)? {
            device.stop_requests();
            return Ok(Ended::Stopped);
        }
        let outcome = session.join().unwrap_or_else(|_| Err("its thread panicked".to_owned()));
        info!("the frontend is gone");
        match outcome {
            Ok(()) if once => return Ok(Ended::Disconnected),
            Err(error) if once => return Err(ServeError::Protocol(error)),
            Ok(()) => {}
            Err(error) => warn!(error, "the frontend broke the vhost-user protocol"),
        }
    }
}

/// Ends the threads of a session's queues, which are waited for when its daemon is dropped. It goes with the session.
struct QueuesEnd(EventFd);

impl QueuesEnd {
    fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?))
    }

    /// Ends the threads of `daemon` when it is raised.
    fn ends<F>(&self, daemon: &VhostUserDaemon<Arc<Device<F>>>) -> io::Result<()>
    where
        F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
    {
        for handler in daemon.get_epoll_handlers() {
            handler.register_listener(self.0.as_raw_fd(), EventSet::IN, SESSION_END.into())?;
        }
        Ok(())
    }

    fn raise(&self) {
        // Fails only when the counter is full: then it has been raised.
        drop(self.0.write(1));
    }
}

/// Waits until the frontend is gone, then for all that the session has started.
fn run_session<F>(
    mut daemon: VhostUserDaemon<Arc<Device<F>>>,
    device: &Device<F>,
    end_of_queues: &QueuesEnd,
) -> Result<(), String>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let ended = daemon.wait();
    // First, so that a driver that goes on posting requests cannot keep the queues' threads.
    device.stop_requests();
    end_of_queues.raise();
    drop(daemon);
    device.end_session();
    match ended {
        Ok(())
        | Err(DaemonError::HandleRequest(
            ProtocolError::Disconnected | ProtocolError::PartialMessage,
        )) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits for `fd` to become readable or closed; false if the stop came first.
fn wait_for(fd: impl AsFd, stop: &StopHandle) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN), PollFd::new(&stop.0, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds[1].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
