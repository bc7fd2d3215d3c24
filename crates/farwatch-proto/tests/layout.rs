// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A C compiler and rustc lay the wire structs out alike. Needs `cc`.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use farwatch_proto::wire::abi::{fuse_notify_fsnotify_out, fuse_out_header};

macro_rules! layout {
    ($($type:ident { $($field:ident),* })*) => {{
        let mut lines = String::new();
        $(
            writeln!(lines, "{} {}", stringify!($type), size_of::<$type>()).unwrap();
            $(
                let offset = offset_of!($type, $field);
                writeln!(lines, "{}.{} {offset}", stringify!($type), stringify!($field)).unwrap();
            )*
        )*
        lines
    }};
}

#[test]
fn rust_and_c_agree_on_every_field() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layout.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("layout");
    let compiled = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .args([&program, &source])
        .status()
        .expect("this test needs a C compiler called cc; ./test installs one");
    assert!(compiled.success(), "cc refuses {}", source.display());
    let printed = Command::new(&program).output().expect("the compiled program runs").stdout;

    let rust = layout! {
        fuse_out_header { len, error, unique }
        fuse_notify_fsnotify_out {
            nodeid, generation, reserved, mask, namelen, cookie, flags, child_generation, child_nodeid
        }
    };
    assert_eq!(rust, String::from_utf8(printed).unwrap());
}
