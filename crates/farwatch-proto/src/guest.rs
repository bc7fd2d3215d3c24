// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The decisions on the guest's side: [`join`] puts the halves of a rename together, [`plan`] turns
//! an event into the system calls that raise it, [`opens`] says which files stay open in between,
//! [`limbo`] what is out of view under which name.

pub mod join;
pub mod limbo;
pub mod opens;
pub mod plan;
