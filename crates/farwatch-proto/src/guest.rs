// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The decisions on the guest's side: [`join`] puts the halves of a rename together, [`plan`] turns
//! an event into the system calls that raise it.

pub mod join;
pub mod plan;
